# What other software may have on a router: every kind of thing that wansplit makes too.
nft -f - <<'RULES'
table inet foreign {
    set kept { type ipv4_addr; elements = { 192.0.2.77, 192.0.2.78 } }
    chain early {
        type filter hook prerouting priority -150; policy accept;
        meta mark set meta mark | 0x00010000
        ct mark set ct mark | 0x00020000
    }
    chain late {
        type filter hook forward priority 300; policy accept;
        meta mark & 0x00010000 == 0x00010000 counter name kept_packets
        meta mark & 0x00010000 != 0x00010000 counter name lost_packets
        ct mark & 0x00020000 != 0x00020000 counter name lost_connections
    }
    chain unused {
        ip saddr @kept drop
    }
    counter kept_packets {
    }
    counter lost_packets {
    }
    counter lost_connections {
    }
}
RULES
for flavour in nft legacy; do
    for program in iptables-$flavour ip6tables-$flavour; do
        command -v $program >/dev/null || continue
        $program -t filter -A FORWARD -m conntrack --ctstate INVALID -j DROP 2>/dev/null || continue
        $program -t mangle -N foreign-marks
        $program -t mangle -A foreign-marks -j MARK --set-xmark 0x40000/0x40000
        $program -t mangle -A foreign-marks -j CONNMARK --set-xmark 0x80000/0x80000
        $program -t mangle -A PREROUTING -i lan0 -j foreign-marks
        $program -t nat -N foreign-empty
        $program -t nat -A POSTROUTING -o lo -j MASQUERADE
        $program -t raw -P OUTPUT ACCEPT
    done
done
if ipset create foreign hash:net family inet 2>/dev/null; then
    ipset add foreign 192.0.2.99
    iptables-nft -t mangle -A POSTROUTING -m set --match-set foreign dst -j DROP
fi
ip route add 10.99.0.0/16 via 10.77.0.11
ip route add default via 203.0.113.1 dev wan2 metric 500
ip route add default via 198.51.100.1 dev wan1 table 300
ip route add 10.98.0.0/16 dev lan0 table 301
ip rule add priority 100 fwmark 0x300000/0x300000 lookup 300
ip rule add priority 32000 from 10.99.0.0/16 lookup 301
ip -6 route add fd00:99::/64 via fd00:77::b
ip -6 route add default via 2001:db8:1::1 dev wan1 table 300
ip -6 rule add priority 100 fwmark 0x300000/0x300000 lookup 300
ip -6 rule add priority 32000 from fd00:99::/64 lookup 301
echo 1 >/proc/sys/net/ipv4/conf/wan1/rp_filter
echo 1 >/proc/sys/net/ipv4/conf/wan2/forwarding
echo 1 >/proc/sys/net/ipv6/conf/wan2/forwarding
echo 1 >/proc/sys/net/ipv6/conf/wan1/accept_ra
echo 2 >/proc/sys/net/ipv6/fib_multipath_hash_policy
