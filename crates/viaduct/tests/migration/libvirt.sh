# libvirt on a host of the lab: its own daemon, with our hook, and places of its own.
#
#   libvirt.sh begin HOST       starts it
#   libvirt.sh make             writes the domain, as `viaduct attach` says that its NICs are to be
#   libvirt.sh go FROM TO       has the domain go to the other host
#   libvirt.sh HOST WORD…       virsh
set -eu

# A host's own files are seen by it alone; what is beside them, by all.
shared=$(dirname "$PWD")/shared

connection() {
    echo "qemu+unix:///system?socket=$shared/$1/libvirt-sock"
}

own_viaduct() {
    cat <<END
#!/bin/sh
exec $PWD/viaduct --config /run/viaduct-config/$1.toml --state-dir /run/viaduct-state --run-dir /run/viaduct "\$@"
END
}

begin() {
    for place in etc var/lib var/log var/cache; do
        own=/run/own-$(echo $place | tr / -)
        mkdir "$own"
        [ $place != etc ] || cp -a /etc/. "$own"
        mount --bind "$own" /$place
    done
    # Debian's default, which has to be somebody also where another user is set.
    echo libvirt-qemu:x:64055:64055::/:/bin/false >>/etc/passwd
    echo libvirt-qemu:x:64055: >>/etc/group
    mkdir "$shared/$1" /run/programs
    own_viaduct "$1" >/run/programs/viaduct
    chmod 755 /run/programs/viaduct
    install -D -m 755 hook /etc/libvirt/hooks/qemu.d/viaduct
    cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$shared/$1"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "00000000-0000-4000-8000-00000000000$1"
END
    install -m 644 qemu.conf /etc/libvirt/qemu.conf
    PATH=/run/programs:$PATH libvirtd </dev/null >/run/libvirtd.log 2>&1 &
    for _ in $(seq 300); do
        virsh -c "$(connection "$1")" version >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat /run/libvirtd.log
    exit 1
}

make() {
    mkdir -p /run/programs
    interface() {
        /run/programs/viaduct attach "$1" --tap "$2" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["libvirt"])'
        /run/programs/viaduct detach "$1" >&2
    }
    first=$(interface shop.0 t-shop)
    second=$(interface shop.1 t-own)
    echo "$first" | sed -n "s/.*<mac address='\([^']*\)'.*/\1/p" >"$shared/mac"
    cat >/run/shop.xml <<END
<domain type='qemu'>
  <name>shop</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$PWD/vmlinuz</kernel>
    <initrd>$PWD/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 rdinit=/init</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    $first
    $second
    <serial type='file'><source path='/run/console'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
END
}

case $1 in
begin) begin "$2" ;;
make) make ;;
go)
    virsh -c "$(connection "$2")" migrate --live shop "$(connection "$3")" --migrateuri "unix://$shared/$2-to-$3" >/run/migrated 2>&1 ||
        { cat /run/migrated /run/libvirtd.log; exit 1; }
    ;;
*)
    host=$1
    shift
    virsh -c "$(connection "$host")" "$@"
    ;;
esac
