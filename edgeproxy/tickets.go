package edgeproxy

import (
	"crypto/tls"
	"sync"
)

// maxTicketConfigs bounds the configurations that are kept; one is made anew in a moment.
const maxTicketConfigs = 1024

// ticketConfigs are one TLS configuration for each set of keys of session tickets that the cluster shares, so
// that a client's session goes on at whatever node it meets next.
type ticketConfigs struct {
	base *tls.Config
	keys func(host string) [][32]byte

	mu     sync.Mutex // guards byKeys
	byKeys map[[32]byte]*tls.Config
}

// withTickets has handshakes use the shared keys. Tickets never carry early data (0-RTT) here.
func (p *Proxy) withTickets(base *tls.Config) *tls.Config {
	if p.cfg.TicketKeys == nil {
		return base
	}
	t := &ticketConfigs{base: base.Clone(), keys: p.cfg.TicketKeys, byKeys: map[[32]byte]*tls.Config{}}
	base.GetConfigForClient = t.forClient
	return base
}

// forClient is the GetConfigForClient of a TLS configuration: nil means that one itself.
func (t *ticketConfigs) forClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	keys := t.keys(canonicalHost(hello.ServerName))
	if len(keys) == 0 {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.byKeys[keys[0]]
	if c == nil {
		if len(t.byKeys) >= maxTicketConfigs {
			clear(t.byKeys)
		}
		c = t.base.Clone()
		c.SetSessionTicketKeys(keys)
		t.byKeys[keys[0]] = c
	}
	return c, nil
}
