#!/usr/bin/env bash
# raw_boot.sh IMAGE KEY CODE VARIABLES CPU ACCELERATOR: what one would type without Seatrial: QEMU, and ssh until it answers.
# Prints the seconds from the start of QEMU until the guest has answered over SSH that it has settled.
set -euo pipefail
image=$(realpath "$1") key=$2 code=$3 variables=$4 cpu=$5 accel=$6
place=$(mktemp -d)
trap 'kill "$qemu" 2>/dev/null || true; wait "$qemu" 2>/dev/null || true; rm -rf "$place"' EXIT
qemu-img create -q -f qcow2 -b "$image" -F raw "$place/overlay.qcow2"
cp "$variables" "$place/variables.fd"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
credential=io.systemd.credential.binary:ssh.authorized_keys.root=$(base64 -w0 "$key.pub")
start=$(date +%s.%N)
qemu-system-x86_64 -machine "q35,accel=$accel" -cpu "$cpu" -smp 2 -m 2048 -display none -nodefaults \
    -drive "if=pflash,format=raw,readonly=on,file=$code" -drive "if=pflash,format=raw,file=$place/variables.fd" \
    -drive "if=none,id=disk,file=$place/overlay.qcow2,format=qcow2" -device virtio-blk-pci,drive=disk,bootindex=0 \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net,romfile= \
    -device virtio-rng-pci -smbios "type=11,value=$credential" -serial "file:$place/console.log" &
qemu=$!
until ssh -i "$key" -p "$port" -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null -oBatchMode=yes \
    -oLogLevel=ERROR -oConnectTimeout=5 root@127.0.0.1 'systemctl is-system-running --wait' >/dev/null 2>&1; do
    kill -0 "$qemu"
    sleep 0.5
done
echo "$start $(date +%s.%N)" | awk '{ printf "%.2f\n", $2 - $1 }'
