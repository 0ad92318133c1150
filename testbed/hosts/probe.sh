#!/bin/sh
# Four lines about the login and its machine; see ssh.py.
printf '\002m2m\003\n'
id -u
pwd
if [ -d /run/systemd/system ]; then echo systemd; else echo other; fi
if sudo -n true 2>/dev/null; then echo sudo; else echo plain; fi
