#!/bin/bash
# /init/boot/boot.sh, PID 1 of AutoDL's containers: /etc/profile, sshd, and at each start /init/bin/customer.cmd.sh.
. /init/common.sh
make_noisy_login
. /etc/profile
# What customer.cmd.sh does there.
customer() {
    [ -e /etc/autodl.sh ] && bash /etc/autodl.sh >/tmp/autodl.sh.log 2>&1
}
start_sshd
customer
stay
