#!/bin/sh
# shellcheck disable=SC2154 # `statement` and `head` assign f_* and h_* with eval
trap 'exit $((1 | 1 | 1))' EXIT
# Checks the proof of a device's certificate in this directory.
#
#     sh verify.sh NETWORK_ID [--at SECONDS]
#
# NETWORK_ID, 64 hex digits, is the network that you trust: get it from elsewhere. --at also checks
# that the certificate is valid at that time, in seconds since 1970: --at "$(date +%s)" means now.
# Exits 0 if everything is valid, else 1 with the reason. If anything ends the script before its last
# lines, that counts as a failure. That includes a damaged line of the script itself: no altered
# byte turns the 1 into a 0.
#
# What it cannot know: whether the certificate was revoked, renewed or replaced after the block
# that it prints. Ask the chain for that.
#
# Needs only sh, openssl, sha256sum, dd, od, tr and cmp. What each file is: chain/proofs/export.py.

LC_ALL=C
export LC_ALL
fail() {
    echo "FAIL: $1" >&2
    exit 1
}
cd "$(dirname "$0")" || fail "cannot enter the directory"
for tool in openssl sha256sum dd od tr cmp; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done
pinned=${1:-}
[ ${#pinned} = 64 ] || fail "usage: sh verify.sh NETWORK_ID [--at SECONDS]"
at_s=
if [ $# -gt 1 ]; then
    case $#:$2:$3 in
    3:--at:*[!0-9]* | 3:--at:0?* | 3:--at: | 3:--at:????????????*) fail "--at wants seconds since 1970" ;;
    3:--at:*) at_s=$3 ;;
    *) fail "usage: sh verify.sh NETWORK_ID [--at SECONDS]" ;;
    esac
fi

# --- bytes as hex digits ---

# shellcheck disable=SC2046 # the words that od prints are joined
digits() { printf %s $(od -An -v -tx1); }
all() { digits <"$1"; }
ascii() { printf %s "$1" | digits; }
unhex() {
    left=$1 bytes=
    while [ -n "$left" ]; do
        next=${left#??}
        byte=$((0x${left%"$next"}))
        bytes="$bytes\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))"
        left=$next
    done
    # shellcheck disable=SC2059 # octal escapes, made above
    printf "$bytes"
}
sha() {
    sum=$(sha256sum)
    printf %s "${sum%% *}"
}
pem() { # the PEM text of a public key
    echo "-----BEGIN PUBLIC KEY-----"
    unhex "$1" | openssl base64
    echo "-----END PUBLIC KEY-----"
}
p256() { # the DER of a P-256 key, uncompressed: 91 bytes that begin so
    case ${#1}:$1 in
    182:3059301306072a8648ce3d020106082a8648ce3d03010703420004*) ;;
    *) return 1 ;;
    esac
}

# 1. The files are those that were exported, all of them and no other.
sums() {
    set --
    for file in *; do
        [ "$file" = SHA256SUMS ] || set -- "$@" "$file"
    done
    sha256sum -- "$@"
}
sums 2>/dev/null | cmp -s - SHA256SUMS || fail "a file was altered, added or lost (SHA256SUMS)"

# 2. The genesis is the network's: its hash is the network id. Its members, "id:key" in the order of
#    their ids, hold the keys that count.
network=$(sha <genesis.json)
[ "$network" = "$pinned" ] || fail "another network: $network"
text=$(dd if=genesis.json bs=65536 2>/dev/null)
interval=${text##*'"checkpoint_interval": '}
interval=${interval%%,*}
text=${text#*'"members": ['}
text=${text%%'"policy": '*}
members='' n=0
while :; do
    case $text in *'"id": '*) ;; *) break ;; esac
    text=${text#*'"id": '}
    id=${text%%,*}
    text=${text#*'"spki": "'}
    members="$members $id:$(printf %s "${text%%'"'*}" | openssl base64 -d -A | digits)"
    n=$((n + 1))
done
[ "$n" -ge 4 ] || fail "genesis.json has no members"

# --- deterministic CBOR, read from the front of $rest ---

between() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; } # VALUE LEAST MOST
take() { # COUNT: that many bytes of $rest become $taken
    over=$rest count=$1
    while [ "$count" -gt 0 ]; do
        case $over in ??*) ;; *) fail "$where is cut short" ;; esac
        over=${over#??} count=$((count - 1))
    done
    taken=${rest%"$over"}
    rest=$over
}
number() { # TYPE: $value is the number in the next head, in its shortest form
    take 1
    value=$((0x$taken - 32 * $1)) least=0
    case $value in
    ? | 1? | 2[0-3]) return ;;
    24) take 1 least=24 ;;
    25) take 2 least=256 ;;
    26) take 4 least=65536 ;;
    27) take 8 least=4294967296 ;;
    *) fail "$where: another type was expected" ;;
    esac
    case $taken in
    [4-9a-f]???????????????) [ "$taken" = 4000000000000000 ] || fail "$where: a number is too large" ;;
    esac
    value=$((0x$taken))
    [ "$value" -ge "$least" ] || fail "$where: a number is not in its shortest form"
}
text() { # 1 to 64 characters of UTF-8
    number 3
    take "$value"
    left=$taken characters=0
    while [ -n "$left" ]; do
        case $left in
        [0-7]?*) left=${left#??} ;;
        c[2-9a-f][89ab]?* | d?[89ab]?*) left=${left#????} ;;
        e0[ab]?[89ab]?* | e[1-9a-cef][89ab]?[89ab]?* | ed[89]?[89ab]?*) left=${left#??????} ;;
        f0[9ab]?[89ab]?[89ab]?* | f[1-3][89ab]?[89ab]?[89ab]?* | f48?[89ab]?[89ab]?*)
            left=${left#????????}
            ;;
        *) fail "$where: a text is not UTF-8" ;;
        esac
        characters=$((characters + 1))
    done
    between "$characters" 1 64 || fail "$where: the length of a text"
}
bytes() { # LEAST MOST
    number 2
    between "$value" "$1" "$2" || fail "$where: the length of $name"
    take "$value"
}
unsigned() { # LEAST MOST
    number 0
    between "$value" "$1" "$2" || fail "$where: $name is out of range"
    taken=$value
}

# All fields that a statement can have, in the only order, with their types: h hash, t text,
# k key, q key check, s services, u number, p privilege, r replica or epoch, c counter.
fields="by:h op:t key:k item:h kind:t node:h board:h epoch:r prior:u reason:t status:t counter:c
network:h replica:r request:h service:t session:u sponsor:h time_us:u boundary:u firmware:h
services:s key_check:q privilege:p certificate:u not_after_us:u not_before_us:u"
table='' where=fields rest="$(ascii "$fields")20"
for field in $fields; do
    name=${field%:*}
    take ${#name}
    table="$table $field:$(printf %x $((96 + ${#name})))$taken"
    take 3 # the colon, the type and what is between two fields
done

# statement FILE: each field into $f_NAME (empty if absent), numbers decimal, all else hex digits.
statement() {
    where=$1
    leaf=$(all "$1")
    [ ${#leaf} -le 8192 ] || fail "$where is too long"
    rest=$leaf
    number 5
    open=$value
    for field in $table; do
        name=${field%%:*}
        key=${field##*:}
        taken=
        case $rest in
        "$key"*)
            rest=${rest#"$key"} open=$((open - 1)) type=${field#*:}
            case ${type%:*} in
            h) bytes 32 32 ;;
            k) bytes 32 255 ;;
            q) bytes 8 32 ;;
            t) text ;;
            u) unsigned 0 4611686018427387904 ;;
            c) unsigned 1 4611686018427387904 ;;
            r) unsigned 0 2147483648 ;;
            p) unsigned 0 255 ;;
            s)
                number 4
                services=$value
                between "$services" 1 16 || fail "$where: services"
                while [ "$services" -gt 0 ]; do
                    text
                    services=$((services - 1))
                done
                ;;
            esac
            ;;
        esac
        eval "f_$name=\$taken"
    done
    [ "$open:$rest" = 0: ] || fail "$where: fields are unknown, repeated or out of order"
    for name in op status node time_us request item; do
        eval "[ -n \"\$f_$name\" ]" || fail "$where lacks $name"
    done
    [ "$f_network" = "$network" ] || fail "$where: network"
    [ "$f_status" = "$(ascii ok)" ] || fail "$where: the operation was not carried out"
}

# --- making CBOR and DER, as hex digits ---

cbor() { # TYPE NUMBER
    if [ "$2" -lt 24 ]; then
        printf %02x $((32 * $1 + $2))
    elif [ "$2" -lt 256 ]; then
        printf %02x%02x $((32 * $1 + 24)) "$2"
    elif [ "$2" -lt 65536 ]; then
        printf %02x%04x $((32 * $1 + 25)) "$2"
    else
        printf %02x%08x $((32 * $1 + 26)) "$2"
    fi
}
der() { # TAG CONTENT
    size=$((${#2} / 2))
    if [ "$size" -lt 128 ]; then
        printf %s%02x%s "$1" "$size" "$2"
    elif [ "$size" -lt 256 ]; then
        printf %s81%02x%s "$1" "$size" "$2"
    elif [ "$size" -lt 65536 ]; then
        printf %s82%04x%s "$1" "$size" "$2"
    else
        printf %s83%06x%s "$1" "$size" "$2"
    fi
}
whole() { # FILE: the 64 bytes r || s of a signature in DER
    rest=$(all "$1") where=$1
    take 2
    for _ in r s; do
        take 2
        size=$((0x${taken#??}))
        take "$size"
        while [ ${#taken} -gt 64 ]; do taken=${taken#??}; done
        while [ ${#taken} -lt 64 ]; do taken=00$taken; done
        printf %s "$taken"
    done
}

# head FILE: its digits are $head. Each field is in $h_NAME, as hex digits.
head() {
    where=$1
    head=$(all "$1")
    [ ${#head} = 336 ] || fail "$1 is not 168 bytes"
    case $head in 6d326d2d686561642f310000"$network"*) ;; *) fail "$1: network" ;; esac
    rest=$head
    take 44
    for field in height:8 time_us:8 parent:32 parent_root:32 root:32 epoch:4 view:4 count:4; do
        take "${field#*:}"
        eval "h_${field%:*}=\$taken"
    done
}

# inclusion PREFIX EPOCH: f+1 members signed the head, and the leaf is in the block under it. The
# statement is read. $cbor is the inclusion as a certificate holds it.
inclusion() {
    for file in head.bin leaf.cbor index path.bin; do
        [ -f "$1$file" ] || fail "$1$file is missing"
    done
    head "${1}head.bin"
    [ $((0x$h_epoch)) = "$2" ] || fail "${1}head.bin: epoch"
    height=$((0x$h_height))
    [ "$height" -gt "$boundary" ] || fail "${1}head.bin: its epoch had not begun"
    good=0 seals='' weak=$(((n - 1) / 3 + 1))
    for member in $members; do
        id=${member%%:*} key=${member#*:} seal=${1}seal-${member%%:*}.der
        [ -f "$seal" ] || continue
        p256 "$key" || fail "replica $id: not a P-256 key"
        pem "$key" | cmp -s - "replica-$id.pem" || fail "replica-$id.pem is not the member's key"
        openssl dgst -sha256 -verify "replica-$id.pem" -signature "$seal" "${1}head.bin" \
            >/dev/null 2>&1 || fail "$seal: replica $id did not sign the head"
        good=$((good + 1))
        seals="${seals}82$(cbor 0 "$id")5840$(whole "$seal")"
    done
    count=0
    for seal in "${1}"seal-*; do count=$((count + 1)); done
    [ "$count" = "$good" ] || fail "${1}seal-*: a signature is not by a member"
    [ "$good" -ge "$weak" ] || fail "$good signatures of $weak"
    # The way to the root: RFC 9162, section 2.1.3.2.
    read -r at <"${1}index"
    case $at in '' | *[!0-9]* | 0?* | ???????????*) fail "${1}index" ;; esac
    printf '%s\n' "$at" | cmp -s - "${1}index" || fail "${1}index"
    index=$at
    last=$((0x$h_count - 1))
    [ "$at" -le "$last" ] || fail "${1}index"
    node=$({ printf '\000'; dd if="${1}leaf.cbor" bs=65536 2>/dev/null; } | sha)
    step=0 path='' where=${1}path.bin rest=$(all "${1}path.bin")
    while [ -n "$rest" ]; do
        [ "$last" -gt 0 ] || fail "${1}path.bin is too long"
        take 32
        sibling=$taken
        if [ $((at % 2)) = 1 ] || [ "$at" = "$last" ]; then
            node=$(unhex "01$sibling$node" | sha)
            while [ $((at % 2)) = 0 ] && [ "$at" -gt 0 ]; do
                at=$((at / 2)) last=$((last / 2))
            done
        else
            node=$(unhex "01$node$sibling" | sha)
        fi
        at=$((at / 2)) last=$((last / 2)) step=$((step + 1)) path=${path}5820$sibling
    done
    [ "$last" = 0 ] || fail "${1}path.bin is too short"
    [ "$node" = "$h_root" ] || fail "${1}leaf.cbor is not in the block"
    statement "${1}leaf.cbor"
    [ "$f_time_us" = $((0x$h_time_us)) ] || fail "${1}leaf.cbor: time_us"
    cbor=a56468656164$(cbor 2 168)${head}646c656166$(cbor 2 $((${#leaf} / 2)))$leaf
    cbor=${cbor}6470617468$(cbor 4 "$step")${path}65696e646578$(cbor 0 "$index")
    cbor=${cbor}657365616c73$(cbor 4 "$good")$seals
}

# 3. Each change of the membership is proven under the members before it.
epoch=0 boundary=0 epochs='' add=$(ascii add-replica) remove=$(ascii remove-replica)
while [ -f "epoch-$((epoch + 1)).head.bin" ]; do
    inclusion "epoch-$((epoch + 1))." "$epoch"
    epoch=$((epoch + 1)) epochs=$epochs$cbor
    wrong="epoch-$epoch is no change of the membership"
    [ "$f_epoch:${f_replica:-none}" = "$epoch:$f_replica" ] || fail "$wrong"
    # It takes effect above the next checkpoint.
    boundary=$(((height + interval - 1) / interval * interval))
    [ "$f_boundary" = "$boundary" ] || fail "epoch-$epoch: boundary"
    case $f_op:${f_key:+key} in
    "$add:key") adds=yes ;;
    "$remove:") adds='' ;;
    *) fail "$wrong" ;;
    esac
    before=$members members='' known='' n=0
    for member in $before; do
        id=${member%%:*}
        if [ "$id" = "$f_replica" ]; then
            known=yes
            continue
        fi
        if [ -n "$f_key" ] && [ "$id" -gt "$f_replica" ]; then
            members="$members $f_replica:$f_key" f_key='' n=$((n + 1))
        fi
        members="$members $member" n=$((n + 1))
    done
    [ -z "$f_key" ] || members="$members $f_replica:$f_key" n=$((n + 1))
    [ "$adds" != "$known" ] || fail "$wrong" # adds a member, or removes a stranger
    between "$n" 4 256 || fail "$wrong"
done

# 4. The record itself, and the link of its block to the one before.
inclusion "" "$epoch"
[ "$(sha <parent.bin)" = "$h_parent" ] || fail "parent.bin: not the target block"
parent_root=$h_parent_root
head parent.bin
[ "$h_root" = "$parent_root" ] || fail "parent.bin: Merkle root"
[ $((0x$h_height + 1)) = "$height" ] || fail "parent.bin: height"
for operation in enrol renew grant none; do
    [ "$(ascii "$operation")" != "$f_op" ] || break
done
[ "$operation" != none ] || fail "the record issues no certificate"
for name in key kind privilege service certificate not_before_us not_after_us; do
    eval "[ -n \"\$f_$name\" ]" || fail "the record issues no certificate: it lacks $name"
done
for kind in mobile environment none; do
    [ "$(ascii "$kind")" != "$f_kind" ] || break
done
[ "$kind" != none ] || fail "the record names no kind of device"
service=$(unhex "$f_service" | tr -c ' -~' '?') # nothing that a terminal obeys

# 5. Whose certificate it is, and that the holder has the key.
p256 "$f_key" || fail "the device's key is not a P-256 key"
pem "$f_key" | cmp -s - device-key.pem || fail "device-key.pem is not the certified key"
[ "$(unhex "$f_key" | sha)" = "$f_node" ] || fail "the node id is not the hash of the key"
possession=
if [ -f request.tbs ]; then
    [ "$(sha <request.tbs)" = "$f_request" ] || fail "request.tbs is another request"
    openssl dgst -sha256 -verify device-key.pem -signature request.der request.tbs \
        >/dev/null 2>&1 || fail "request.der: the device did not sign the request"
    possession=request
fi

civil() { # MICROSECONDS: $year $month $day $hour $minute $second
    second=$(($1 / 1000000 % 86400)) days=$(($1 / 86400000000 + 719468))
    # Days since 0000-03-01, in eras of 400 years.
    era=$((days / 146097)) days=$((days % 146097))
    years=$(((days - days / 1460 + days / 36524 - days / 146096) / 365))
    days=$((days - (365 * years + years / 4 - years / 100)))
    month=$(((5 * days + 2) / 153))
    day=$((days - (153 * month + 2) / 5 + 1)) month=$((month + (month < 10 ? 3 : -9)))
    year=$((era * 400 + years + (month < 3 ? 1 : 0)))
    hour=$((second / 3600)) minute=$((second / 60 % 60)) second=$((second % 60))
}
when() { # MICROSECONDS: as people read it
    civil "$1"
    printf '%04d-%02d-%02dT%02d:%02d:%02dZ' "$year" "$month" "$day" "$hour" "$minute" "$second"
}
moment() { # MICROSECONDS: as X.509 has it
    civil "$1"
    [ "$year" -le 9999 ] || fail "dev.pem: no certificate can hold the year $year"
    tag=18 digits=$year
    if [ "$year" -lt 2050 ]; then tag=17 digits=$(printf %02d $((year % 100))); fi
    der "$tag" "$(ascii "$digits$(printf %02d%02d%02d%02d%02dZ \
        "$month" "$day" "$hour" "$minute" "$second")")"
}
if [ -f dev.pem ]; then
    # The certificate is made again from the record, all but its signature. No field is left open.
    serial=$(printf %x "$f_certificate")
    named=$(der 30 "$(der 31 "$(der 30 "0603550405$(der 13 "$(ascii "$serial")")")")$(
        der 31 "$(der 30 "0603550403$(der 0c "$(ascii "$f_node")")")"
    )")
    case $((${#serial} % 2)):$serial in 1:*) serial=0$serial ;; esac
    case $serial in [89a-f]*) serial=00$serial ;; esac
    [ "$f_certificate" -gt 0 ] || fail "dev.pem: no certificate has the serial 0"
    not_before=$(moment "$f_not_before_us") || exit 1
    not_after=$(moment "$f_not_after_us") || exit 1
    shown=$epoch
    if [ "$epoch" -gt 64 ]; then shown=0 epochs=''; fi # more would be too large for TLS
    proof=a26665706f636873$(cbor 4 "$shown")${epochs}667265636f7264$cbor
    ecdsa=300a06082a8648ce3d040302
    own=300c0603551d130101ff0402300030130603551d25040c300a06082b06010505070302
    own=$own$(der 30 "061369f69c9fa981f2f2b7a39caf9ac3f0e2caef58$(der 04 "$(der 04 "$proof")")")
    tbs=$(der 30 "a003020102$(der 02 "$serial")$ecdsa$named$(
        der 30 "$not_before$not_after"
    )$named${f_key}$(der a3 "$(der 30 "$own")")")
    openssl x509 -in dev.pem 2>/dev/null | cmp -s - dev.pem ||
        fail "dev.pem is not one certificate and nothing else"
    found=$(openssl x509 -in dev.pem -outform DER | digits)
    signature=${found#*"$tbs$ecdsa"}
    [ "$found" = "$(der 30 "$tbs$ecdsa$signature")" ] ||
        fail "dev.pem is not what the chain certified"
    openssl verify -no_check_time -check_ss_sig -CAfile dev.pem dev.pem >/dev/null 2>&1 ||
        fail "dev.pem is not signed by its own key"
    possession="$possession certificate"
fi
[ -n "$possession" ] || fail "nothing proves possession of the key"

echo "network     $network"
echo "height      $height"
echo "node        $f_node"
echo "operation   $operation"
echo "kind        $kind"
echo "privilege   $f_privilege"
echo "service     $service"
echo "not before  $(when "$f_not_before_us")"
echo "not after   $(when "$f_not_after_us")"
echo "signatures  $good of replicas (f+1 = $weak)"
echo "possession  $possession"
if [ -n "$at_s" ]; then
    [ $((at_s * 1000000)) -ge "$f_not_before_us" ] || fail "the certificate is not yet valid"
    [ $((at_s * 1000000)) -le "$f_not_after_us" ] || fail "the certificate has expired"
fi
echo "This proves what block $height certified. It cannot show whether the device was revoked or"
echo "renewed after that block: ask the chain."
# 6. Once more, and not through `fail`: the script itself is one of the files.
sums | cmp -s - SHA256SUMS && trap - EXIT && echo "OK"
exit 0
