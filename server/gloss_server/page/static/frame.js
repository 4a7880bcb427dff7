/** Updates at most once per animation frame, however often they are asked for. */

/**
 * @param {() => void} draw
 * @returns {() => void} asks for it to be drawn with the next frame. A hidden page draws no frames,
 *   so there it is drawn a moment later instead: what is read aloud or tested stays true.
 */
export function onceAFrame(draw) {
  let asked = false;
  const run = () => {
    asked = false;
    draw();
  };
  return () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(run, 250);
    else requestAnimationFrame(run);
  };
}

/**
 * Call back once what has been changed in this frame is on the screen.
 *
 * @param {() => void} callback
 */
export function afterPaint(callback) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    callback();
  };
  requestAnimationFrame(() => port2.postMessage(null));
}
