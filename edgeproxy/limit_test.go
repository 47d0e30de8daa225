package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// TestLimitsDoc compares the table of docs/manifest.md with the values that receipts can have.
func TestLimitsDoc(t *testing.T) {
	b, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "## Which limit ended a request\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| [45]\\d\\d[^|]* \\| [^|]{10,} \\| [^|]{10,} \\|$").FindAllStringSubmatch(section, -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, limits()) {
		t.Errorf("docs/manifest.md lists %q, the code has %q", got, limits())
	}
}

func TestLimitOf(t *testing.T) {
	tried := &refusedError{&placement.Refusal{Status: 503, Cause: placement.CauseAllTried}}
	down := &refusedError{&placement.Refusal{Status: 503, Cause: placement.CauseAllowedDown}}
	full := &perigee.HopError{Code: perigee.RefusedOverloaded}
	memory := &perigee.HopError{Code: perigee.RefusedOverloaded, Limit: LimitNodeMemory}
	for _, c := range []struct {
		err  error
		busy *perigee.HopError
		want string
	}{
		{&GuestError{Kind: FaultDeadline}, nil, LimitTimeout},
		{&GuestError{Kind: FaultFuel}, nil, LimitFuel},
		{&GuestError{Kind: FaultMemory}, full, LimitMemory},
		{&GuestError{Kind: FaultTooLarge}, nil, LimitResponse},
		{&GuestError{Kind: FaultTrap}, nil, ""},
		{&GuestError{Kind: FaultTrap, Limit: LimitDepth}, nil, LimitDepth},
		{&GuestError{Kind: FaultBad}, nil, ""},
		{fmt.Errorf("so: %w", context.DeadlineExceeded), nil, LimitTimeout},
		{full, nil, LimitConcurrency},
		{memory, nil, LimitNodeMemory},
		{&perigee.HopError{Code: perigee.RefusedDeadline}, nil, LimitTimeout},
		{&perigee.HopError{Code: perigee.RefusedDraining}, nil, ""},
		{tried, nil, ""},
		{tried, full, LimitConcurrency},
		{tried, memory, LimitNodeMemory},
		{down, full, ""},
		{errors.New("disk"), full, ""},
		{errLost, nil, ""},
	} {
		equal(t, fmt.Sprintf("%v after %v", c.err, c.busy), limitOf(c.err, c.busy), c.want)
	}
}

// TestLimitIsTold checks the receipt and the page, here and over a hop.
func TestLimitIsTold(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		limit  string
		says   string
	}{
		{&GuestError{Kind: FaultTrap, Limit: LimitDepth}, 502, LimitDepth, "recursion"},
		{&GuestError{Kind: FaultFuel}, 502, LimitFuel, "limits.fuel"},
		{&perigee.HopError{Code: perigee.RefusedOverloaded, Limit: LimitConcurrency}, 503, LimitConcurrency, "limits.concurrency"},
		{&perigee.HopError{Code: perigee.RefusedOverloaded, Limit: LimitNodeMemory}, 503, LimitNodeMemory, "limits.memory"},
		{&GuestError{Kind: FaultTrap}, 502, "", "crashed"},
	} {
		world := newWorld("wdc-1:absent", "fra-1")
		mesh := newMesh()
		mesh.add("fra-1", newProxy(t, world, "fra-1", failing(c.err), mesh))
		for how, p := range map[string]*Proxy{
			"here": newProxy(t, newWorld("fra-1"), "fra-1", failing(c.err), newHops()),
			"hop":  newProxy(t, world, "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), mesh),
		} {
			rec, _ := send(p, request("GET", "/", nil))
			if r := receiptOf(t, rec.Header()); rec.Code != c.status || r.Limit != c.limit || !strings.Contains(rec.Body.String(), c.says) {
				t.Errorf("%s, %v: %d, receipt %+v\n%s", how, c.err, rec.Code, r, rec.Body)
			}
			if (rec.Header().Get("Retry-After") != "") != (c.status == 503) {
				t.Errorf("%s, %v: Retry-After %q", how, c.err, rec.Header().Get("Retry-After"))
			}
		}
		mesh.wg.Wait()
	}
}

// TestUnknownLimitOfAPeer checks that a worker can't put any text into a receipt.
func TestUnknownLimitOfAPeer(t *testing.T) {
	hops := newHops().on("fra-1", func(*http.Request) (*http.Response, perigee.Load, error) {
		r := response(502, 0, http.NoBody)
		r.Header.Set(hopFault, "trap")
		r.Header.Set(hopLimit, "a limit of a later release")
		r.Header.Set(hopFuel, "many")
		return r, perigee.Load{}, nil
	})
	rec, _ := send(newProxy(t, newWorld("wdc-1:absent", "fra-1"), "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), hops), request("GET", "/", nil))
	if r := receiptOf(t, rec.Header()); rec.Code != 502 || r.Limit != "" || r.Fuel != 0 {
		t.Errorf("%d, %+v", rec.Code, r)
	}
}

// streamer is a guest whose head leaves when it has used 10 fuel, and which uses 32 more.
func streamer(length string, err error) *fakeLocal {
	l := newLocal(nil)
	l.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		w.(Reporter).Report(Result{Fuel: 10, Partial: true})
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.Header().Set(http.TrailerPrefix+ReceiptHeader, "forged")
		_, _ = w.Write([]byte("hello"))
		return Result{Fuel: 42}, err
	}
	return l
}

// TestStreamsHaveTheLastWordInATrailer covers each protocol and way.
func TestStreamsHaveTheLastWordInATrailer(t *testing.T) {
	ca := newCA(t)
	everyWay(t, func(t *testing.T, version int, how way) {
		for _, length := range []string{"", "5"} {
			p := serving(t, ca, how, streamer(length, nil))
			resp, body := get(t, clientSpeaking(t, p, ca, version), "https://"+testHost+"/")
			head := receiptOf(t, resp.Header)
			last, ok := ReceiptOf(resp.Trailer)
			if body != "hello" || head.Fuel != 10 || !head.Partial || ok != (length == "") {
				t.Errorf("length %q: %q, head %+v, trailer %v", length, body, head, resp.Trailer)
			}
			if head.Fuel, head.Partial = 42, false; ok && last != head {
				t.Errorf("length %q: trailer %+v, want %+v", length, last, head)
			}
		}
	})
}

func TestReceiptsWithoutFuelHaveNoTrailer(t *testing.T) {
	ca := newCA(t)
	p := serving(t, ca, here, streamer("", nil), func(c *Config) { c.Receipt = ReceiptRegion })
	if resp, _ := get(t, client(t, p, ca, false), "https://"+testHost+"/"); len(resp.Trailer) > 0 {
		t.Errorf("trailer %v", resp.Trailer)
	}
}

// TestFailedGuestsHaveUsedFuel checks that the receipt of an error page has it, too.
func TestFailedGuestsHaveUsedFuel(t *testing.T) {
	local := newLocal(nil)
	local.handler = func(context.Context, http.ResponseWriter, *http.Request) (Result, error) {
		return Result{Fuel: 42}, &GuestError{Kind: FaultTrap}
	}
	world := newWorld("wdc-1:absent", "fra-1")
	mesh := newMesh()
	mesh.add("fra-1", newProxy(t, world, "fra-1", local, mesh))
	for _, p := range []*Proxy{
		newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()),
		newProxy(t, world, "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), mesh),
	} {
		rec, _ := send(p, request("GET", "/", nil))
		if r := receiptOf(t, rec.Header()); rec.Code != 502 || r.Fuel != 42 || r.Partial {
			t.Errorf("%d, %+v", rec.Code, r)
		}
	}
	mesh.wg.Wait()
}
