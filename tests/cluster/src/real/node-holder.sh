# Prepares the namespaces of a real node and then holds them: $1 is the node's directory. Runs in new network and mount
# namespaces, as the one process that outlives a restart of the kubelet or of containerd.
set -eu
node=$1

# Pods with mount propagation want it inside the node; the unshare before this keeps it from the machine.
mount --make-rshared /

# What the node's programs keep outside their own directories: sockets, CNI results, links to logs.
for hidden in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
done

# The kubelet sets these for the whole machine. It gets copies.
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    [ -e "/proc/sys/$key" ] || continue
    mkdir -p "$node/sysctl/${key%/*}"
    cat "/proc/sys/$key" >"$node/sysctl/$key"
    mount --bind "$node/sysctl/$key" "/proc/sys/$key"
done

# Network namespaced: this is the node's own.
echo 1 >/proc/sys/net/ipv4/ip_forward

touch "$node/ready"
exec sleep infinity
