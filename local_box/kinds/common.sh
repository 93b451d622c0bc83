# What all of them have in common; sourced by the PID 1 of each.

# A login shell that talks, is slow, and finds conda first, as rented images have it. Made once; the system disk keeps it.
make_noisy_login() {
    [ -e /root/miniconda3 ] && return
    mkdir -p /root/miniconda3/bin
    # Whoever takes conda's Python by accident is told so.
    printf '#!/bin/sh\necho "this is the Python of conda" >&2\nexit 97\n' >/root/miniconda3/bin/python3
    chmod 755 /root/miniconda3/bin/python3
    ln -s python3 /root/miniconda3/bin/python
    cat >/root/.bashrc <<'END'
export PATH=/root/miniconda3/bin:$PATH
sleep 0.1
case $- in *i*) echo "+--- a greeting that nobody asked for ---+" ;; esac
END
    echo 'export PATH=/root/miniconda3/bin:$PATH' >/etc/profile.d/conda.sh
}

start_sshd() {
    mkdir -p /run/sshd
    /usr/sbin/sshd
}

# PID 1 has to stay, to take in the orphans of others, and to end when it is told to.
stay() {
    trap 'exit 0' TERM INT
    while :; do
        sleep 3600 &
        wait $!
    done
}
