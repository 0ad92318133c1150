#!/bin/sh
# The actions of systemd.py on one service.   VERB --system|--user DIRECTORY SERVICE [MORE...]
#   start LOG USER: standard input has the service's file.   stop LIMIT_S.   signal NAME.
#   status.   list: every service of ours in DIRECTORY.
verb=$1 scope=$2 directory=$3 service=$4
shift 4
[ "$scope" = --system ] || { XDG_RUNTIME_DIR=/run/user/$(id -u); export XDG_RUNTIME_DIR; }

start() {
  set -e
  # If systemd made the log, it would belong to root, and the login could not read it.
  [ -d "${1%/*}" ] || install -d -m 0700 -o "$2" "${1%/*}"
  [ -e "$1" ] || install -m 0600 -o "$2" /dev/null "$1"
  mkdir -p "$directory"
  new=$(mktemp)
  trap 'rm -f "$new"' EXIT
  cat >"$new"
  if cmp -s "$new" "$directory/$service" && systemctl "$scope" is-active -q "$service"; then
    exit 0
  fi
  install -m 0644 "$new" "$directory/$service"
  systemctl "$scope" enable -q --no-reload "$service"
  systemctl "$scope" daemon-reload
  systemctl "$scope" reset-failed "$service" 2>/dev/null || :
  systemctl "$scope" restart "$service"
}

stop() {
  [ -e "$directory/$service" ] || return 0
  timeout "$1" systemctl "$scope" stop "$service" || {
    systemctl "$scope" kill -s KILL "$service"
    systemctl "$scope" stop "$service"
  }
  systemctl "$scope" disable -q --no-reload "$service"
  systemctl "$scope" reset-failed "$service" 2>/dev/null
  rm -f "${directory:?}/${service:?}"
  systemctl "$scope" daemon-reload
}

signal() {
  pid=$(systemctl "$scope" show -P MainPID "$service")
  [ "$pid" -gt 0 ] || { echo "it has no process at the moment" >&2; exit 1; }
  kill -s "$1" "$pid"
}

case $verb in
  start) start "$1" "$2" ;;
  stop) stop "$1" ;;
  signal) signal "$1" ;;
  status) systemctl "$scope" show -p ActiveState,MainPID,NRestarts,ExecMainCode,ExecMainStatus \
    "$service" ;;
  # By their content, because a machine may have other services with such a name.
  list) cd "$directory" 2>/dev/null && grep -ls "^Description=testbed unit " testbed-*.service; : ;;
esac
