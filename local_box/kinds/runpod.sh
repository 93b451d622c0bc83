#!/bin/bash
# /start.sh, PID 1 of RunPod's containers: hooks before and after, sshd between them.
. /init/common.sh
make_noisy_login
hook() {
    [ -f "$1" ] && bash "$1"
}
hook /pre_start.sh
start_sshd
printenv | grep -E '^RUNPOD_|^PATH=' | sed 's/^/export /' >/etc/rp_environment
hook /post_start.sh
stay
