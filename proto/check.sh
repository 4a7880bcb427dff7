#!/usr/bin/env bash
# Holds the contract: committed stubs that match it, buf's rules, and nothing that breaks a caller of
# the released contract (released.binpb; CONTRIBUTING.md says when it is renewed).
# usage: [PROTOC="command"] [BUF=program] check.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
buf=${BUF:-$here/../.venv/bin/buf}
stubs="gloss_pb2.py gloss_pb2.pyi gloss_pb2_grpc.py"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
status=0

"$here/generate.sh" "$fresh"
for stub in $stubs; do
	cmp -s "$fresh/gloss_api/v1/$stub" "$here/gloss_api/v1/$stub" || {
		echo "error: proto/gloss_api/v1/$stub is not what gloss.proto gives: run make proto" >&2
		status=1
	}
done

"$buf" lint "$here" >&2 || {
	echo "error: gloss.proto breaks the rules of proto/buf.yaml" >&2
	status=1
}
# Images on both sides: the vendored files are a module of their own, and buf compares one with one.
"$buf" build "$here" --exclude-source-info -o "$fresh/now.binpb"
"$buf" breaking "$fresh/now.binpb" --against "$here/released.binpb" >&2 || {
	echo "error: gloss.proto breaks callers of the released contract: add fields, keep what is there" >&2
	status=1
}
exit $status
