#!/bin/sh
# Stands in for `viaduct` where only the lab is tested: called like it, but does what host.sh beside the configuration says.
set -e
while [ $# -gt 0 ]; do
    case $1 in
    --config) dir=$(dirname "$2"); shift 2 ;;
    --state-dir | --run-dir) mkdir -p "$2"; shift 2 ;;
    *) break ;;
    esac
done
. "$dir/host.sh"
"$@"
