"""The server's front process: gRPC in, engine commands out. Never imports torch."""
