package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names is a resolver. A name with several sets of addresses answers with the next at each look-up, and
// stays at the last.
type names struct {
	mu    sync.Mutex
	sets  map[string][][]netip.Addr
	block bool // until the caller gives up
}

func (n *names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if n.block {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	sets := n.sets[host]
	if len(sets) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(sets) > 1 {
		n.sets[host] = sets[1:]
	}
	return sets[0], nil
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// one returns a resolver for names that never change.
func one(host string, list ...string) *names {
	return &names{sets: map[string][][]netip.Addr{host: {addrs(list...)}}}
}

// victim listens where nobody may connect, on all loopback addresses with one port, and counts who does.
type victim struct {
	port     string
	accepted atomic.Int64
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{}
	first, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, v.port, _ = net.SplitHostPort(first.Addr().String())
	listeners := []net.Listener{first}
	for _, a := range []string{"[::1]:", "127.1.2.3:"} {
		if l, err := net.Listen("tcp", a+v.port); err == nil { // not on every machine
			listeners = append(listeners, l)
		}
	}
	var running sync.WaitGroup
	for _, l := range listeners {
		running.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				v.accepted.Add(1)
				c.Close()
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		running.Wait()
	})
	return v
}

// serve runs a handler on loopback and returns its "127.0.0.1:port".
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	return serveOn(t, "127.0.0.1:0", h)
}

func serveOn(t *testing.T, addr string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("this machine can't listen on %s: %v", addr, err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}

func newEgress(t *testing.T, c Config) *Egress {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newTransport(t *testing.T, e *Egress, allowed ...string) *Transport {
	t.Helper()
	tr, err := e.Transport("f", allowed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

// get sends a request without following redirects.
func get(t *testing.T, tr http.RoundTripper, url string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := tr.RoundTrip(r)
	if err == nil {
		t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// spelling is a way to write a forbidden address as the host of a URL.
type spelling struct{ host, addr string }

// spellings writes forbidden addresses in all the ways that some program understands.
func spellings() (out []spelling) {
	seen := map[string]bool{}
	add := func(addr string, hosts ...string) {
		for _, h := range hosts {
			if !seen[h] {
				seen[h] = true
				out = append(out, spelling{h, addr})
			}
		}
	}
	for _, s := range []string{"127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "169.254.169.254", "192.168.1.1", "172.16.0.1", "100.100.100.200", "255.255.255.255", "198.18.0.1"} {
		a := netip.MustParseAddr(s)
		b := a.As4()
		n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		low24, low16 := n&0xffffff, n&0xffff
		wide := ""
		for _, c := range s {
			if c != '.' {
				c += 0xff10 - '0'
			}
			wide += string(c)
		}
		add(s,
			s, s+".", wide, fmt.Sprintf("%d.%d.%d。%d", b[0], b[1], b[2], b[3]),
			fmt.Sprint(n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%X", n), fmt.Sprintf("0%o", n), fmt.Sprintf("0x00000000%x", n),
			fmt.Sprintf("%d.%d", b[0], low24), fmt.Sprintf("%d.%d.%d", b[0], b[1], low16), fmt.Sprintf("0x%x.%d", b[0], low24),
			fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]), fmt.Sprintf("0x%x.%d.0%o.%d", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("%d.0x%x", b[0], low24), fmt.Sprintf("%d", uint64(n)+1<<32),
			fmt.Sprintf("[::ffff:%s]", s), fmt.Sprintf("[::FFFF:%x:%x]", n>>16, low16), fmt.Sprintf("[0:0:0:0:0:ffff:%s]", s),
			fmt.Sprintf("[::%s]", s), fmt.Sprintf("[64:ff9b::%s]", s), fmt.Sprintf("[64:ff9b::%x:%x]", n>>16, low16), fmt.Sprintf("[64:ff9b:1::%s]", s),
			fmt.Sprintf("[2002:%x:%x::1]", n>>16, low16), fmt.Sprintf("[2001:0:%x:%x::808:808]", n>>16, low16),
			fmt.Sprintf("[2001:0:808:808::%x:%x]", ^n>>16, ^n&0xffff), fmt.Sprintf("[::ffff:%s%%251]", s),
			"name-"+s[:3]+fmt.Sprint(n)+".test", "NAME-"+fmt.Sprint(n)+".test.",
		)
	}
	add("127.0.0.1", "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ｌｏｃａｌｈｏｓｔ", "127。0。0。1", "１27.0.0.1", "①②⑦.⓪.⓪.①")
	add("169.254.169.254", "metadata.google.internal", "metadata", "instance-data.ec2.internal")
	add("::1", "[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::1%25lo]", "[::1%251]", "ip6-localhost")
	for _, s := range []string{"::", "fe80::1", "febf::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1"} {
		add(s, "["+s+"]", "["+s+"%25eth0]", "["+netip.MustParseAddr(s).StringExpanded()+"]")
	}
	return out
}
