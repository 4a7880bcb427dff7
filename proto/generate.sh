#!/usr/bin/env bash
# Generates the stubs of the contract beside this script into OUTPUT (default: this folder).
# usage: [PROTOC="command"] generate.sh [OUTPUT]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here}
# Unquoted on purpose: the command may have arguments.
${PROTOC:-$here/../.venv-proto/bin/python -m grpc_tools.protoc} \
	-I"$here" -I"$here/vendor" \
	--python_out="$output" --pyi_out="$output" --grpc_python_out="$output" \
	gloss_api/v1/gloss.proto
