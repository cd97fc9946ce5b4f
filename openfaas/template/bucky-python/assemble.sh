#!/bin/sh
# Lays a build context out as Python imports it: assemble.sh CONTEXT PACKAGE TARGET
# faas-cli puts the handler's files in function/ and what the stack file copies in function/functions/.
set -eu

context=$1 package=$2 target=$3

mkdir -p "$target/$package"
cp -R "$context/function/functions/bucky" "$target/bucky"
for entry in "$context"/function/*; do
    [ "$(basename "$entry")" = functions ] || cp -R "$entry" "$target/$package/"
done
