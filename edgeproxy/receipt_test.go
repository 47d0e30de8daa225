package edgeproxy

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

var fullReceipt = Receipt{
	Entry: "wdc", Region: "fra", Node: "fra-1", Revision: "a1b2c3d4e5f6", Start: StartWarm, Reason: "nearest-warm",
	Hop: 91_170 * time.Microsecond, Fuel: 18231, ID: "0123456789abcdef",
}

func TestReceiptFormat(t *testing.T) {
	digits := fullReceipt
	digits.Revision, digits.Entry, digits.Node, digits.Hop = "9f00", "4ra", "-", 1
	for _, c := range []struct {
		name, level string
		r           Receipt
		want        string
	}{
		{"full", ReceiptFull, fullReceipt, `entry=wdc, region=fra, node=fra-1, rev=a1b2c3d4e5f6, start=warm, reason=nearest-warm, hop-ms=91.2, fuel=18231, id="0123456789abcdef"`},
		{"region", ReceiptRegion, fullReceipt, `entry=wdc, region=fra, start=warm, reason=nearest-warm, id="0123456789abcdef"`},
		{"off", ReceiptOff, fullReceipt, ""},
		{"a token does not start with a digit", ReceiptFull, digits, `entry="4ra", region=fra, node="-", rev="9f00", start=warm, reason=nearest-warm, hop-ms=0.0, fuel=18231, id="0123456789abcdef"`},
		{"refused", ReceiptFull, Receipt{Entry: "wdc", Reason: ReasonRefused, ID: "ffff"}, `entry=wdc, reason=refused, id=ffff`},
		{"escapes", ReceiptFull, Receipt{Entry: `a"b\c` + "\n"}, `entry="a\"b\\c?"`},
		{"a stream", ReceiptFull, Receipt{Entry: "wdc", Fuel: 7, Partial: true}, `entry=wdc, fuel=7;partial`},
		{"a stream that has used nothing", ReceiptFull, Receipt{Entry: "wdc", Partial: true}, `entry=wdc, fuel=0;partial`},
		{"a limit", ReceiptRegion, Receipt{Entry: "wdc", Fuel: 7, Limit: LimitTimeout, ID: "f"}, `entry=wdc, limit=timeout, id=f`},
		{"big", ReceiptFull, Receipt{Fuel: 1 << 63}, `fuel=999999999999999`},
	} {
		if got := c.r.Format(c.level); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestParseReceipt(t *testing.T) {
	got, err := ParseReceipt(fullReceipt.Format(ReceiptFull))
	want := fullReceipt
	want.Hop = 91200 * time.Microsecond // one digit is written
	if err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if r, err := ParseReceipt("fuel=0;x=1;partial;y, limit=fuel"); err != nil || r != (Receipt{Partial: true, Limit: LimitFuel}) {
		t.Errorf("a partial receipt is %+v, %v", r, err)
	}
	for _, c := range []struct{ in, entry string }{
		{"", ""},
		{"entry=fra", "fra"},
		{"  entry=fra  ", "fra"},
		{"entry=ams, entry=fra", "fra"}, // the last wins
		{"entry=fra;a=1;b=?0;c=\"x\";d, new=?1, newer;p=1, other=-1.5", "fra"},
		{`entry="f\"r\\a"`, `f"r\a`},
		{"entry=fra \t,\t id=x", "fra"},
	} {
		if r, err := ParseReceipt(c.in); err != nil || string(r.Entry) != c.entry {
			t.Errorf("%q: got %q, %v", c.in, r.Entry, err)
		}
	}
	for _, in := range []string{
		"entry", "x=", "=x", "Entry=fra", "entry=fra,", "entry=fra entry=fra", "entry=fra;", "entry=(a b)", "entry=:YQ==:", "entry=@1",
		`entry="x`, `entry="\x"`, "entry=\"\x01\"", "fuel=1234567890123456", "hop-ms=1.", "hop-ms=1.2345", "hop-ms=1234567890123.1",
		"a=-", "a=?2", "a=?", "é=1", strings.Repeat("a", 4097),
	} {
		if in == "entry" { // a key alone means true: allowed, and no region
			if r, err := ParseReceipt(in); err != nil || r.Entry != "" {
				t.Errorf("%q: got %+v, %v", in, r, err)
			}
			continue
		}
		if r, err := ParseReceipt(in); err == nil {
			t.Errorf("%.40q: no error, got %+v", in, r)
		}
	}
	var many []string
	for _, a := range "abcdefghij" {
		for _, b := range "abcdefghij" {
			many = append(many, string(a)+string(b))
		}
	}
	if _, err := ParseReceipt(strings.Join(many, ",")); err == nil {
		t.Error("100 keys: no error")
	}
}

func TestReceiptOf(t *testing.T) {
	if _, ok := ReceiptOf(http.Header{}); ok {
		t.Error("a receipt from nothing")
	}
	r, ok := ReceiptOf(http.Header{ReceiptHeader: {"entry=fra", "region=syd"}})
	if !ok || r.Entry != "fra" || r.Region != "syd" {
		t.Errorf("two lines: %+v %v", r, ok)
	}
}

func FuzzParseReceipt(f *testing.F) {
	f.Add(fullReceipt.Format(ReceiptFull))
	f.Add(`entry="4ra";x=?1, rev="9f00", fuel=1, hop-ms=0.5`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReceipt(s)
		if err != nil {
			return
		}
		again, err := ParseReceipt(r.Format(ReceiptFull))
		if err != nil {
			t.Fatalf("%q: what was read can't be written and read again: %v", s, err)
		}
		if diff := (again.Hop - r.Hop).Abs(); diff > 100*time.Microsecond {
			t.Fatalf("%q: hop changed by %v", s, diff)
		}
		again.Hop = r.Hop
		if again != r {
			t.Fatalf("%q:\n first %+v\n again %+v", s, r, again)
		}
	})
}
