package geo

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// testDatabase returns the path of one of MaxMind's public test databases.
func testDatabase(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PERIGEE_CONFORMANCE")
	if dir == "" {
		t.Skip("PERIGEE_CONFORMANCE names no folder with test databases")
	}
	return filepath.Join(dir, "mmdb", name)
}

// lines is a log that one goroutine writes and another reads.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take returns what was written since it was called last.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

func TestLocate(t *testing.T) {
	for _, name := range []string{"GeoLite2-City-Test.mmdb", "GeoIP2-City-Test.mmdb"} {
		l := New(Config{Databases: []string{testDatabase(t, name)}, Logger: slog.New(slog.DiscardHandler)})
		for _, want := range []struct {
			addr, country string
			near          *perigee.Point
			source        string
		}{
			{"81.2.69.142", "GB", &perigee.Point{Lat: 51.5, Lon: -0.1}, SourceDatabase},
			{"::ffff:81.2.69.142", "GB", &perigee.Point{Lat: 51.5, Lon: -0.1}, SourceDatabase},
			{"89.160.20.112", "SE", &perigee.Point{Lat: 58.4, Lon: 15.6}, SourceDatabase},
			{"2001:218::1", "JP", &perigee.Point{Lat: 35.7, Lon: 139.7}, SourceDatabase},
			{"10.0.0.1", "", nil, ""},
			{"127.0.0.1", "", nil, ""},
			{"fe80::1%eth0", "", nil, ""},
		} {
			got := l.Locate(netip.MustParseAddr(want.addr))
			if got.Country != want.country || got.Source != want.source || (got.Point == nil) != (want.near == nil) {
				t.Errorf("%s: Locate(%s) = %+v, want %s by %q", name, want.addr, got, want.country, want.source)
			}
			if got.Point != nil && want.near != nil && got.Point.DistanceKm(*want.near) > 50 {
				t.Errorf("%s: Locate(%s) is %.0f km from where it should be", name, want.addr, got.Point.DistanceKm(*want.near))
			}
		}
	}
}

func TestCountryDatabase(t *testing.T) {
	l := New(Config{Databases: []string{testDatabase(t, "GeoLite2-Country-Test.mmdb")}, Logger: slog.New(slog.DiscardHandler)})
	got := l.Locate(netip.MustParseAddr("89.160.20.112"))
	if got.Country != "SE" || got.Source != SourceCountry || got.Point == nil {
		t.Errorf("Locate = %+v, want the middle of Sweden", got)
	}
}

// TestFallback needs no database: the table of countries is in the binary.
func TestFallback(t *testing.T) {
	l := New(Config{})
	for addr, country := range map[string]string{
		"8.8.8.8": "US", "193.0.6.139": "NL", "2001:67c:2e8::1": "NL", "200.160.2.3": "BR", "133.11.0.1": "JP",
		"192.168.1.1": "", "100.64.0.1": "", "::1": "", "fd00::1": "", "224.0.0.1": "",
	} {
		got := l.Locate(netip.MustParseAddr(addr))
		if got.Country != country {
			t.Errorf("Locate(%s) = %+v, want %q", addr, got, country)
		}
		if (got.Point != nil) != (country != "") {
			t.Errorf("Locate(%s) has the point %v", addr, got.Point)
		}
	}
	if got := l.Locate(netip.Addr{}); got != (Place{}) {
		t.Errorf("the zero address is in %+v", got)
	}
}

// TestGroups: a client in a country belongs to the same groups as a region there.
func TestGroups(t *testing.T) {
	for _, r := range perigee.BuiltinRegions().All() {
		if got := Groups(r.Country); !slices.Equal(got, r.Groups) {
			t.Errorf("country %s has the groups %q, region %s there has %q", r.Country, got, r.Code, r.Groups)
		}
	}
	if got := Groups("XX"); got != nil {
		t.Errorf("no country has the groups %q", got)
	}
}

func TestEveryCountryHasAPlace(t *testing.T) {
	for code, c := range countries() {
		if len(code) != 2 || code != strings.ToUpper(code) || point(c.point.Lat, c.point.Lon) == nil {
			t.Errorf("country %q is at %v", code, c.point)
		}
	}
	if n := len(countries()); n < 240 {
		t.Errorf("the table has %d countries", n)
	}
}

// TestReload replaces a database while it is in use: by rename, by something that is none, in place, and not at all.
func TestReload(t *testing.T) {
	good, err := os.ReadFile(testDatabase(t, "GeoLite2-City-Test.mmdb"))
	if err != nil {
		t.Fatal(err)
	}
	asn, err := os.ReadFile(testDatabase(t, "GeoLite2-ASN-Test.mmdb"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "city.mmdb")
	london := netip.MustParseAddr("81.2.69.142")
	synctest.Test(t, func(t *testing.T) {
		var out lines
		l := New(Config{Databases: []string{path}, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		at := time.Now()
		step := func(what string, change func() error, source, logged string) {
			t.Helper()
			at = at.Add(time.Minute)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			_ = os.Chtimes(path, at, at) // whatever the resolution of the disk's clock is
			time.Sleep(defaultEvery + time.Second)
			synctest.Wait()
			if got := l.Locate(london); got.Source != source || got.Country != "GB" {
				t.Errorf("%s: Locate = %+v, want it by %q", what, got, source)
			}
			if got := out.take(); !strings.Contains(got, logged) || (logged == "") != (got == "") {
				t.Errorf("%s: logged %q, want %q", what, got, logged)
			}
		}
		renamed := func(b []byte) func() error {
			return func() error {
				tmp := path + ".new"
				if err := os.WriteFile(tmp, b, 0o600); err != nil {
					return err
				}
				return os.Rename(tmp, path)
			}
		}
		if got, log := l.Locate(london), out.take(); got.Source != SourceCountry || !strings.Contains(log, "not used") {
			t.Errorf("without the file: %+v, %s", got, log)
		}
		step("the file appears", renamed(good), SourceDatabase, "in use")
		step("one of networks' owners", renamed(asn), SourceDatabase, "want one of cities or countries")
		step("half of one", renamed(good[:len(good)/2]), SourceDatabase, "not used")
		step("a good one again", renamed(good), SourceDatabase, "in use")
		step("cut in place", func() error { return os.Truncate(path, 100) }, SourceDatabase, "not used")
		step("removed", func() error { return os.Remove(path) }, SourceDatabase, "not used")
		step("nothing", func() error { return nil }, SourceDatabase, "")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDamaged flips bytes of a database. It is refused or answers; it never panics.
func TestDamaged(t *testing.T) {
	good, err := os.ReadFile(testDatabase(t, "GeoLite2-City-Test.mmdb"))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := 0; i < len(good); i += 97 {
		bad := slices.Clone(good)
		bad[i] ^= 0xff
		db, _, err := openDatabase(bad)
		if err != nil {
			refused++
			continue
		}
		for _, a := range []string{"81.2.69.142", "89.160.20.112", "2001:218::1", "1.2.3.4"} {
			_, _ = db.find(netip.MustParseAddr(a))
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// TestClient: the region is of the catalogue that is asked for, also when another was asked for before.
func TestClient(t *testing.T) {
	l := New(Config{})
	amsterdam := netip.MustParseAddr("193.0.6.139")
	few := perigee.NewRegions([]perigee.RegionInfo{{Code: "home", Country: "NL", Point: perigee.Point{Lat: 52, Lon: 5}}})
	for range 2 {
		for _, c := range []struct {
			regions *perigee.Regions
			want    perigee.Region
		}{{perigee.BuiltinRegions(), "ams"}, {few, "home"}, {perigee.NewRegions(nil), ""}} {
			if country, region := l.Client(amsterdam, c.regions); country != "NL" || region != c.want {
				t.Errorf("Client = %q, %q, want NL, %q", country, region, c.want)
			}
		}
	}
	if country, region := l.Client(netip.MustParseAddr("10.0.0.1"), few); country != "" || region != "" {
		t.Errorf("a private address is in %q, %q", country, region)
	}
}

func BenchmarkLocate(b *testing.B) {
	l := New(Config{Databases: []string{testDatabase(b, "GeoLite2-City-Test.mmdb")}, Logger: slog.New(slog.DiscardHandler)})
	addr := netip.MustParseAddr("81.2.69.142")
	b.ReportAllocs()
	for b.Loop() {
		l.Locate(addr)
	}
}
