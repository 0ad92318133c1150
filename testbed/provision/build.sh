#!/bin/sh
# Builds or renews the environment on a host; see install.py.
#   new PYTHON ARCHIVE...   beside the old one; it gets its final name after its test.
#   renew ARCHIVE           only our own code; it has no stamp until it is complete.
# Both remove the archives at the end.
set -e
verb=$1
shift

imports() {
  "$1/bin/python" -I -c '
import nodes.device.environment, nodes.device.mobile, nodes.gateway.process, nodes.replica.process'
}

case $verb in
  new)
    trap 'rm -rf env.new' EXIT
    rm -rf env.new
    "$1" -I -m venv --without-pip env.new
    for site in env.new/lib/python*/site-packages; do :; done
    shift
    for archive; do tar -xzf "$archive" -C "$site"; done
    imports env.new
    rm -rf env.old
    [ ! -e env ] || mv env env.old
    mv env.new env
    rm -rf env.old
    ;;
  renew)
    rm -f env/stamp.json
    for site in env/lib/python*/site-packages; do :; done
    rm -rf "${site:?}/chain" "${site:?}/gateway" "${site:?}/nodes"
    tar -xzf "$1" -C "$site"
    imports env
    ;;
esac
rm -rf wheelhouse
