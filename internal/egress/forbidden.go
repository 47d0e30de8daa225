package egress

import "net/netip"

// forbidden is the addresses that no function reaches unless the operator allows it, each with the rule
// that errors name. The first match counts. Sources: the IANA special-purpose registries (RFC 6890 and
// what followed), and the clouds' documents for what is not in them.
var forbidden = [...]struct {
	prefix netip.Prefix
	rule   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.169.254/32"), "cloud-metadata"},
	{netip.MustParsePrefix("169.254.170.2/32"), "cloud-metadata"}, // Amazon ECS
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud-metadata"}, // Alibaba
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade-nat"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud-metadata"}, // Azure, in the middle of public addresses
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud-metadata"},   // Oracle
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol-assignments"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4-relay"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},

	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::/96"), "ipv4-compatible"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-nat64"},
	{netip.MustParsePrefix("100::/64"), "discard"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud-metadata"}, // Amazon
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud-metadata"},  // Google
	{netip.MustParsePrefix("fd00:42::42/128"), "cloud-metadata"},   // Scaleway
	{netip.MustParsePrefix("fc00::/7"), "unique-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
	{netip.MustParsePrefix("2001:2::/48"), "benchmarking"},
	{netip.MustParsePrefix("2001:10::/28"), "orchid"},
	{netip.MustParsePrefix("2001:20::/28"), "orchid"},
}

// publicV6 is the global unicast addresses. What is outside is not routed in the Internet.
var publicV6 = netip.MustParsePrefix("2000::/3")

// carriers is the IPv6 addresses that lead to an IPv4 address inside them: where it starts, and what its
// bytes are xored with. A local NAT64 (64:ff9b:1::/48, RFC 8215) is in the table above instead: where it
// leads is known to its network only.
var carriers = [...]struct {
	prefix netip.Prefix
	at     int
	xor    byte
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, 0}, // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2, 0},     // 6to4, RFC 3056
	{netip.MustParsePrefix("2001::/32"), 4, 0},     // Teredo, RFC 4380: the server
	{netip.MustParsePrefix("2001::/32"), 12, 0xff}, // the same: the client, obfuscated
}
