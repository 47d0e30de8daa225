package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestACME runs testdata/acme against Pebble, an ACME server for tests. PERIGEE_PEBBLE is the folder
// that `make bin/pebble` fills: pebble, pebble-challtestsrv and the certificate of Pebble's own.
func TestACME(t *testing.T) {
	dir := os.Getenv("PERIGEE_PEBBLE")
	if dir == "" {
		t.Skip("PERIGEE_PEBBLE is not set: `make test-acme` builds what this needs")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/acme", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PEBBLE", dir)
			return setupStory(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until": until, "saveas": saveAs, "capture": capture, "guest": writeGuest, "pebbleconfig": pebbleConfig, "pointdns": pointDNS,
		},
	})
}

// pebbleConfig writes Pebble's settings: it asks nodes on the ports $HTTPS and $HTTP.
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

// pointDNS points all names to a node other than the one named.
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
