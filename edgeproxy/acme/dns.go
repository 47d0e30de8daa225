package acme

import (
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/rfc2136"
	"go.uber.org/zap"
)

// DNS is a name server that takes updates (RFC 2136), signed by a key (TSIG, RFC 8945): what BIND, Knot,
// PowerDNS and many hosted zones offer.
type DNS struct {
	Server    string   // "HOST:PORT"
	KeyName   string   // of the key
	Algorithm string   // for example "hmac-sha256"
	Key       string   // base64
	Resolvers []string // asked whether an update has arrived, "HOST:PORT"; empty = the zone's own servers
}

const (
	propagation = 2 * time.Minute // longest until an update has reached the zone's servers
	recordTTL   = time.Minute
)

func (d *DNS) solver() *certmagic.DNS01Solver {
	return &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
		DNSProvider:        &rfc2136.Provider{KeyName: d.KeyName, KeyAlg: d.Algorithm, Key: d.Key, Server: d.Server},
		PropagationTimeout: propagation, Resolvers: d.Resolvers, TTL: recordTTL, Logger: zap.NewNop(),
	}}
}
