package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/perigee-edge/perigee/edgeproxy/acme/acmetest"
)

// TestACME runs testdata/acme against Pebble, an ACME server for tests. PERIGEE_PEBBLE is the folder
// that `make bin/pebble` fills: pebble, pebble-challtestsrv and the certificate of Pebble's own. Beside the commands of
// TestStory these stories have:
//
//	pebbleconfig FILE       writes Pebble's settings: it asks nodes on the ports $HTTPS and $HTTP
//	pointdns NODE           has all names lead to a node other than the one named
//	zone DOMAIN IP          serves a DNS zone that takes updates on 127.0.0.1:$MESH, with the key $ZONEKEY; its names lead to IP
//	zoneempty               waits until no record is left in it, and requires that no update was refused
//	relay                   carries the mesh between the ports $RELAY of 127.0.0.2 to 127.0.0.4
//	isolate NODE            cuts a node off from the others, and from nothing else; "nobody" heals
//	samecert DURATION HOST  waits until all three nodes have one certificate for a host, of the root in root.pem
//	note REGEXP             counts how often it matches in ca.log, the log of Pebble
//	since N REGEXP          requires N matches more than at its note
//	missing PROGRAM         says that a part is left out
//	skewed FILE             builds the program with a clock that $SKEW seconds put wrong
func TestACME(t *testing.T) { runWithPebble(t, "testdata/acme") }

// TestClients runs testdata/clients the same way: clients that others wrote, as far as they are installed.
func TestClients(t *testing.T) { runWithPebble(t, "testdata/clients") }

func runWithPebble(t *testing.T, scripts string) {
	dir := os.Getenv("PERIGEE_PEBBLE")
	if dir == "" {
		t.Skip("PERIGEE_PEBBLE is not set: `make test-acme` and `make test-clients` build what this needs")
	}
	testscript.Run(t, testscript.Params{
		Dir: scripts, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PEBBLE", dir)
			port, err := freePort()
			if err != nil {
				return err
			}
			env.Setenv("RELAY", port)
			env.Values["acme"] = &acmeStory{notes: map[string]int{}}
			return setupStory(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until": until, "saveas": saveAs, "capture": capture, "guest": writeGuest, "edit": edit, "pebbleconfig": pebbleConfig, "pointdns": pointDNS,
			"relay": startRelay, "isolate": isolate, "samecert": sameCert, "note": note, "zoneempty": zoneEmpty, "since": since, "skewed": skewed,
			"missing": func(_ *testscript.TestScript, _ bool, args []string) { t.Logf("%v is not installed: left out", args) },
			"zone": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: zone DOMAIN IP")
				}
				z := acmetest.NewZone(t, args[0], "127.0.0.1:"+ts.Getenv("MESH"), net.ParseIP(args[1]))
				ts.Setenv("ZONEKEY", z.Key)
				storyOf(ts).zone = z
			},
		},
	})
}

// acmeStory is what the commands of one story share.
type acmeStory struct {
	relay *relay
	zone  *acmetest.Zone
	notes map[string]int
}

func storyOf(ts *testscript.TestScript) *acmeStory { return ts.Value("acme").(*acmeStory) }

// addrs are the addresses of the nodes.
var addrs = map[string]netip.Addr{
	"fra": netip.AddrFrom4([4]byte{127, 0, 0, 2}), "wdc": netip.AddrFrom4([4]byte{127, 0, 0, 3}), "syd": netip.AddrFrom4([4]byte{127, 0, 0, 4}), "nobody": {},
}

func startRelay(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: relay")
	}
	port := func(name string) uint16 {
		n, err := strconv.ParseUint(ts.Getenv(name), 10, 16)
		ts.Check(err)
		return uint16(n)
	}
	r, err := newRelay(port("MESH"), port("RELAY"))
	ts.Check(err)
	ts.Defer(r.close)
	storyOf(ts).relay = r
}

func isolate(ts *testscript.TestScript, neg bool, args []string) {
	r := storyOf(ts).relay
	if neg || len(args) != 1 || r == nil {
		ts.Fatalf("usage: isolate NODE, after relay")
	}
	ip, ok := addrs[args[0]]
	if !ok {
		ts.Fatalf("no node %s", args[0])
	}
	r.isolate(ip)
}

func zoneEmpty(ts *testscript.TestScript, neg bool, args []string) {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) { // the record is taken away after the order
		taken, refused, left := storyOf(ts).zone.Updates()
		switch {
		case refused > 0 || taken == 0:
			ts.Fatalf("%d updates were refused, %d taken", refused, taken)
		case left == 0:
			return
		case time.Since(began) > 20*time.Second:
			ts.Fatalf("%d records are left in the zone", left)
		}
	}
}

func sameCert(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: samecert DURATION HOST")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("WORK") + "/root.pem")))
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // between two looks at other processes
		var first *x509.Certificate
		err := error(nil)
		for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
			var c *tls.Conn
			if c, err = tls.Dial("tcp", net.JoinHostPort(ip, ts.Getenv("HTTPS")), &tls.Config{ServerName: args[1], RootCAs: roots}); err != nil {
				break
			}
			leaf := c.ConnectionState().PeerCertificates[0]
			c.Close()
			if first == nil {
				first = leaf
			} else if !bytes.Equal(first.Raw, leaf.Raw) {
				err = fmt.Errorf("%s has another certificate than 127.0.0.2", ip)
				break
			}
		}
		if err == nil {
			return
		}
		if time.Since(began) > limit {
			ts.Fatalf("%s within %v: %v", args[1], limit, err)
		}
	}
}

// inLog counts in the CA's log.
func inLog(ts *testscript.TestScript, expr string) int {
	re, err := regexp.Compile(expr)
	ts.Check(err)
	b, err := os.ReadFile(ts.Getenv("WORK") + "/ca.log")
	ts.Check(err)
	return len(re.FindAll(b, -1))
}

func note(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: note REGEXP")
	}
	storyOf(ts).notes[args[0]] = inLog(ts, args[0])
}

func since(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: since N REGEXP")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	before, ok := storyOf(ts).notes[args[1]]
	if now := inLog(ts, args[1]); !ok || now-before != want {
		ts.Fatalf("%q: %d more in the log of the CA (noted: %v), want %d", args[1], now-before, ok, want)
	}
}

func pebbleConfig(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pebbleconfig FILE")
	}
	dir := ts.Getenv("PEBBLE")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), fmt.Appendf(nil, `{"pebble": {
		"listenAddress": "127.0.0.1:%s", "managementListenAddress": "127.0.0.1:%s",
		"certificate": %q, "privateKey": %q, "tlsPort": %s, "httpPort": %s,
		"ocspResponderURL": "", "externalAccountBindingRequired": false,
		"retryAfter": {"authz": 1, "order": 1}, "profiles": {"default": {"description": "for tests", "validityPeriod": 86400}}
	}}`, ts.Getenv("HTTPS"), ts.Getenv("HTTP"), dir+"/cert.pem", dir+"/key.pem", ts.Getenv("HTTPS"), ts.Getenv("HTTP")), 0o600))
}

func pointDNS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pointdns NODE")
	}
	ip := "127.0.0.3"
	if args[0] == "wdc" {
		ip = "127.0.0.4"
	}
	resp, err := http.Post("http://127.0.0.1:"+ts.Getenv("ADMIN")+"/set-default-ipv4", "application/json", strings.NewReader(`{"ip":"`+ip+`"}`))
	ts.Check(err)
	resp.Body.Close()
}
