package edgeproxy

import (
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"
)

// TestServerTiming: who gets the full receipt is told what the time went to, over each protocol and way, beside
// what the function says itself.
func TestServerTiming(t *testing.T) {
	ca := newCA(t)
	const pause = 20 * time.Millisecond
	local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(pause)
		w.(Reporter).Report(Result{Start: StartWarm})
		w.Header().Set(headerTiming, "db;dur=1")
		_, _ = io.WriteString(w, "hello")
	})
	want := map[way]string{
		here:    `^entry;dur=\d+\.\d, run;desc=warm;dur=(\d+\.\d)$`,
		fakeHop: `^entry;dur=\d+\.\d, hop;dur=\d+\.\d, run;desc=warm;dur=(\d+\.\d)$`,
	}
	want[quicHop] = want[fakeHop]
	everyWay(t, func(t *testing.T, version int, how way) {
		p := serving(t, ca, how, local)
		resp, _ := get(t, clientSpeaking(t, p, ca, version), "https://"+testHost+"/")
		got := resp.Header[headerTiming]
		if len(got) != 2 || got[0] != "db;dur=1" || !regexp.MustCompile(want[how]).MatchString(got[1]) {
			t.Fatalf("timing %q", got)
		}
		run, err := time.ParseDuration(regexp.MustCompile(want[how]).FindStringSubmatch(got[1])[1] + "ms")
		if err != nil || run < pause {
			t.Errorf("timing %q of a function that pauses for %v", got, pause)
		}
		if _, told := resp.Header[hopRun]; told {
			t.Error("the client gets what is said between nodes")
		}
	})
	p := serving(t, ca, quicHop, local, func(c *Config) { c.Receipt = ReceiptRegion })
	resp, _ := get(t, client(t, p, ca, true), "https://"+testHost+"/")
	if got := resp.Header[headerTiming]; len(got) != 1 || got[0] != "db;dur=1" {
		t.Errorf("a stranger is told %q", got)
	}
}

// TestServerTimingOfARefusal says what the gateway itself took.
func TestServerTimingOfARefusal(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops())
	r := request("GET", "/", nil)
	r.Host = "nobody.example.com"
	rec, _ := send(p, r)
	if got := rec.Header().Get(headerTiming); !regexp.MustCompile(`^entry;dur=\d+\.\d$`).MatchString(got) {
		t.Errorf("%d, timing %q", rec.Code, got)
	}
}
