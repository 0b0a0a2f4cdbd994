#!/bin/sh
# Takes a test cluster down when its owner has ended.
#
# Arguments: the cluster's directory, its id, where to keep logs. The owner holds the other end of standard input. It may
# write a line "keep" (the logs are wanted); end of file is the owner's end, however it came.
# A script, because the owner is often a test binary that has no other program of this crate at hand.
dir=$1 id=$2 kept=$3
keep=no
trap '' INT TERM HUP
while read -r word; do
    [ "$word" = keep ] && keep=yes
done
exec </dev/null >>"$dir/logs/reaper.log" 2>&1

# "pid start-time": does exactly this process live? A zombie is dead: its owner waits for it, or has ended.
alive() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The fields are words, to be split.
    # shellcheck disable=SC2086
    set -- "$2" ${stat##*) }
    [ "$2" != Z ] && [ "${21}" = "$1" ]
}

for script in "$dir"/teardown.d/*.sh; do
    [ -e "$script" ] && sh "$script" "$dir" "$id"
done

# Newest first: no client sees its server die.
records=$(ls -r "$dir/pids")
for record in $records; do
    read -r pid started signal <"$dir/pids/$record" || continue
    alive "$pid" "$started" && kill "-$signal" "$pid"
done
# What a recorded process started itself, or the owner had started but not yet recorded.
marked() { grep -lzxsF "CROFTER_TEST_CLUSTER=$id" /proc/[0-9]*/environ | cut -d/ -f3; }
tries=0
while [ $tries -lt 100 ]; do
    left=no
    for record in $records; do
        read -r pid started signal <"$dir/pids/$record" || continue
        alive "$pid" "$started" || continue
        left=yes
        [ $tries -eq 50 ] && kill -9 "$pid"
    done
    for pid in $(marked); do
        state=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
        state=${state##*) }
        [ "${state%% *}" = Z ] && continue
        left=yes
        kill -9 "$pid"
    done
    [ $left = no ] && break
    sleep 0.1
    tries=$((tries + 1))
done

if [ $keep = yes ]; then
    mkdir -p "$kept"
    cp -r "$dir/logs" "$kept/$id"
    # The newest twenty are enough.
    # The names are the reaper's own, and ls alone sorts by time.
    # shellcheck disable=SC2012
    ls -t "$kept" | tail -n +21 | while read -r old; do rm -rf "${kept:?}/$old"; done
fi
rm -rf "$dir"
