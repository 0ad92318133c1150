"""The shell script that goes with an exported proof. What it reads is written by `export`.

POSIX sh, openssl, sha256sum, dd, od and cmp: nothing of ours is needed to believe a proof.
"""

from __future__ import annotations

__all__ = ["VERIFY_SH"]

VERIFY_SH = rb"""#!/bin/sh
trap 'exit $((1 | 1 | 1))' EXIT
# Checks the proof in this directory. Needs sh, openssl, sha256sum, dd, od and cmp, no more.
#
#     sh verify.sh [NETWORK_ID]
#
# NETWORK_ID, 64 hex digits, is the network that you trust; without it, compare the printed one.
# Exits 0 if everything holds, else 1 with the reason. Whatever ends it before its last lines is a
# failure, a damaged line of the script too: no altered byte makes that 1 a 0.

LC_ALL=C
export LC_ALL
fail() {
    echo "FAIL: $1" >&2
    exit 1
}
cd "$(dirname "$0")" || fail "cannot enter the directory"
for tool in openssl sha256sum dd od cmp; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done

# hex FILE OFFSET COUNT: bytes as hex digits.  all FILE: the whole of it.
digits() {
    od -An -v -tx1 | {
        out=
        while read -r line; do
            for byte in $line; do out=$out$byte; done
        done
        printf %s "$out"
    }
}
hex() { dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | digits; }
all() { digits <"$1"; }
unhex() {
    rest=$1
    while [ -n "$rest" ]; do
        tail=${rest#??}
        printf "\\$(printf %03o "0x${rest%"$tail"}")"
        rest=$tail
    done
}
sha() {
    sum=$(sha256sum)
    printf %s "${sum%% *}"
}
der_of() { openssl pkey -pubin -in "$1" -outform DER 2>/dev/null; }

# 1. The files are those that were exported, all of them and no other.
sums() {
    for file in *; do
        [ "$file" = SHA256SUMS ] || sha256sum "$file" || return 1
    done
}
sums 2>/dev/null | cmp -s - SHA256SUMS || fail "a file was altered, added or lost (SHA256SUMS)"

# 2. The genesis is the network's: its hash is the network id, its members hold the keys.
network=$(sha <genesis.json)
[ "$network" = "${1:-$network}" ] || fail "another network: $network"
text=$(dd if=genesis.json bs=65536 2>/dev/null)
text=${text#*'"members": ['}
text=${text%%'"policy": '*}
members= n=0
while :; do
    case $text in *'"id": '*) ;; *) break ;; esac
    text=${text#*'"id": '}
    id=${text%%,*}
    text=${text#*'"spki": "'}
    members="$members|$id:${text%%'"'*}|"
    n=$((n + 1))
done
[ "$n" -ge 4 ] || fail "genesis.json has no members"

# inclusion PREFIX EPOCH: f+1 members signed the head, and the leaf is in the block under it.
inclusion() {
    head=$(all "${1}head.bin")
    [ ${#head} = 336 ] || fail "${1}head.bin is not 168 bytes"
    case $head in 6d326d2d686561642f310000"$network"*) ;; *) fail "${1}head.bin: network" ;; esac
    [ $((0x$(hex "${1}head.bin" 156 4))) = "$2" ] || fail "${1}head.bin: epoch"
    good=0
    for seal in "${1}"seal-*.der; do
        id=${seal#"${1}seal-"}
        id=${id%.der}
        key=replica-$id.pem
        base64=$(der_of "$key" | openssl base64 -A)
        case $members in *"|$id:$base64|"*) ;; *) fail "$key is not a member's" ;; esac
        openssl dgst -sha256 -verify "$key" -signature "$seal" "${1}head.bin" >/dev/null 2>&1 ||
            fail "$seal: replica $id did not sign the head"
        good=$((good + 1))
    done
    [ "$good" -gt $(((n - 1) / 3)) ] || fail "$good signatures of $(((n - 1) / 3 + 1))"
    # RFC 9162, section 2.1.3.2
    read -r at <"${1}index"
    case $at in '' | *[!0-9]*) fail "${1}index" ;; esac
    last=$(($((0x$(hex "${1}head.bin" 164 4))) - 1))
    [ "$at" -le "$last" ] || fail "${1}index"
    node=$({ printf '\000'; dd if="${1}leaf.cbor" bs=65536 2>/dev/null; } | sha)
    step=0
    while sibling=$(hex "${1}path.bin" $((32 * step)) 32) && [ -n "$sibling" ]; do
        [ "$last" -gt 0 ] || fail "${1}path.bin is too long"
        if [ $((at % 2)) = 1 ] || [ "$at" = "$last" ]; then
            node=$(unhex "01$sibling$node" | sha)
            while [ $((at % 2)) = 0 ] && [ "$at" -gt 0 ]; do
                at=$((at / 2)) last=$((last / 2))
            done
        else
            node=$(unhex "01$node$sibling" | sha)
        fi
        at=$((at / 2)) last=$((last / 2)) step=$((step + 1))
    done
    [ "$last" = 0 ] || fail "${1}path.bin is too short"
    [ "$node" = "$(hex "${1}head.bin" 124 32)" ] || fail "${1}leaf.cbor is not in the block"
    leaf=$(all "${1}leaf.cbor")
    has "network" "676e6574776f726b5820$network"
    has "status ok" 66737461747573626f6b
}
has() { case $leaf in *"$2"*) ;; *) fail "the statement lacks: $1" ;; esac }

# 3. Each change of the membership is proven under the members before it.
epoch=0
while [ -f "epoch-$((epoch + 1)).head.bin" ]; do
    inclusion "epoch-$((epoch + 1))." "$epoch"
    number=${leaf#*677265706c696361}
    case $number in
    18*) width=2 number=${number#??} ;;
    19*) width=4 number=${number#??} ;;
    1a*) width=8 number=${number#??} ;;
    *) width=2 ;;
    esac
    while [ ${#number} -gt $width ]; do number=${number%?}; done
    id=$((0x$number))
    case $leaf in
    *626f706b6164642d7265706c696361*)
        key=${leaf#*636b6579585b}
        while [ ${#key} -gt 182 ]; do key=${key%?}; done
        members="$members|$id:$(unhex "$key" | openssl base64 -A)|" n=$((n + 1))
        ;;
    *626f706e72656d6f76652d7265706c696361*)
        after=${members#*"|$id:"}
        members=${members%%"|$id:"*}${after#*"|"} n=$((n - 1))
        ;;
    *) fail "epoch-$((epoch + 1)) is no change of the membership" ;;
    esac
    epoch=$((epoch + 1))
done

# 4. The record itself, and the link of its block to the one before.
inclusion "" "$epoch"
[ "$(sha <parent.bin)" = "$(hex head.bin 60 32)" ] || fail "parent.bin: not the target block"
[ "$(hex parent.bin 12 32)" = "$network" ] || fail "parent.bin: network"
[ "$(hex parent.bin 124 32)" = "$(hex head.bin 92 32)" ] || fail "parent.bin: Merkle root"
[ $((0x$(hex parent.bin 44 8) + 1)) = $((0x$(hex head.bin 44 8))) ] || fail "parent.bin: height"

# 5. Whose certificate it is, and that the holder has the key.
key=$(der_of device-key.pem | digits)
node=$(der_of device-key.pem | sha)
[ ${#key} = 182 ] || fail "device-key.pem is not a P-256 key"
has "the device's public key" "636b6579585b$key"
has "the node id" "646e6f64655820$node"
possession=
if [ -f request.tbs ]; then
    has "the request id" "67726571756573745820$(sha <request.tbs)"
    openssl dgst -sha256 -verify device-key.pem -signature request.der request.tbs \
        >/dev/null 2>&1 || fail "request.der: the device did not sign the request"
    possession=request
fi
if [ -f dev.pem ]; then
    openssl verify -no_check_time -check_ss_sig -CAfile dev.pem dev.pem >/dev/null 2>&1 ||
        fail "dev.pem is not signed by its own key"
    own=$(openssl x509 -in dev.pem -noout -pubkey | openssl pkey -pubin -outform DER | digits)
    [ "$own" = "$key" ] || fail "dev.pem has another key"
    case $(openssl x509 -in dev.pem -noout -subject) in
    *"$node") ;;
    *) fail "dev.pem is of another node" ;;
    esac
    possession="$possession certificate"
fi
[ -n "$possession" ] || fail "nothing proves possession of the key"

echo "network    $network"
echo "height     $((0x$(hex head.bin 44 8)))"
echo "node       $node"
echo "signatures $good of replicas (f+1 = $(((n - 1) / 3 + 1)))"
echo "possession $possession"
# 6. Once more, and not through `fail`: the script itself is one of the files.
sums | cmp -s - SHA256SUMS && trap - EXIT && echo "OK"
exit 0
"""
