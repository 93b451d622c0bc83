#!/bin/bash
# PID 1 of vast.ai's containers in launch mode ssh: sshd, and the onstart script.
. /init/common.sh
make_noisy_login
start_sshd
[ -e /root/onstart.sh ] && bash /root/onstart.sh >/var/log/onstart.log 2>&1
stay
