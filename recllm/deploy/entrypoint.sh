#!/bin/sh
# NAME_FILE names a file that holds the value of NAME. Secrets come as files; libpq and recllm read variables.
set -eu
for name in PGPASSWORD RECLLM_SMTP; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ] && [ -s "$file" ]; then
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec recllm "$@"
