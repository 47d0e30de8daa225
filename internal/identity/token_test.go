package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// testToken has the bytes 0, 1, 2 … as its secret.
func testToken() Token {
	t := Token{Kind: record.TokenNode, Genesis: perigee.Digest{1, 2, 3}, Signer: "fra-1", Addrs: []string{"192.0.2.1:7443", "[2001:db8::1]:7443", "mesh.example.com:443"}}
	for i := range t.Seed {
		t.Seed[i] = byte(i)
	}
	return t
}

const goldenLine = "pgt1_AQEBAgMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fBWZyYS0xAw4xOTIuMC4yLjE6NzQ0MxJbMjAwMTpkYjg6OjFdOjc0NDMUbWVzaC5leGFtcGxlLmNvbTo0NDOxr1g8"

// lineOf encodes bytes as a token with a good checksum.
func lineOf(b []byte) string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(bytes.Clone(b), crc32.ChecksumIEEE(b)))
}

func bytesOf(t *testing.T, line string) []byte {
	t.Helper()
	b := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(line, tokenPrefix)))(t)
	return b[:len(b)-4]
}

func TestTokenRoundTrip(t *testing.T) {
	for _, kind := range tokenKinds {
		want := must(NewToken(kind, perigee.Digest{9}, "syd-2", []string{"192.0.2.1:7443"}))(t)
		for _, line := range []string{want.Line(), "  " + want.Line() + "\r\n"} {
			got, err := ParseToken(line)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: read %v, %v", kind, got, err)
			}
			if !got.Key().Equal(want.Key()) || got.ID() != want.ID() {
				t.Errorf("%s: another key", kind)
			}
		}
	}
	a := must(NewToken(record.TokenNode, perigee.Digest{9}, "a", []string{"h:1"}))(t)
	b := must(NewToken(record.TokenNode, perigee.Digest{9}, "a", []string{"h:1"}))(t)
	if a.Seed == b.Seed {
		t.Error("two tokens have one secret")
	}
}

func TestTokenLineIsStable(t *testing.T) {
	if got := testToken().Line(); got != goldenLine {
		t.Errorf("line\n%s, want\n%s", got, goldenLine)
	}
}

func TestNewTokenRefuses(t *testing.T) {
	addrs := []string{"192.0.2.1:7443"}
	for name, tc := range map[string]struct {
		kind    record.TokenKind
		genesis perigee.Digest
		signer  perigee.NodeID
		addrs   []string
		want    string
	}{
		"kind":           {"king", perigee.Digest{1}, "a", addrs, `kind "king"`},
		"no cluster":     {record.TokenNode, perigee.Digest{}, "a", addrs, "names no cluster"},
		"no signer":      {record.TokenNode, perigee.Digest{1}, "", addrs, "signer"},
		"no address":     {record.TokenNode, perigee.Digest{1}, "a", nil, "0 addresses"},
		"many addresses": {record.TokenNode, perigee.Digest{1}, "a", strings.Split(strings.Repeat("h:1 ", 17)[:67], " "), "17 addresses"},
		"no port":        {record.TokenNode, perigee.Digest{1}, "a", []string{"192.0.2.1"}, "want host:port"},
		"port 0":         {record.TokenNode, perigee.Digest{1}, "a", []string{"192.0.2.1:0"}, "want a port"},
		"port name":      {record.TokenNode, perigee.Digest{1}, "a", []string{"192.0.2.1:https"}, "want a port"},
		"big port":       {record.TokenNode, perigee.Digest{1}, "a", []string{"192.0.2.1:65536"}, "want a port"},
		"port form":      {record.TokenNode, perigee.Digest{1}, "a", []string{"192.0.2.1:07443"}, "want a port"},
		"no host":        {record.TokenNode, perigee.Digest{1}, "a", []string{":7443"}, "name is empty"},
		"host name":      {record.TokenNode, perigee.Digest{1}, "a", []string{"a_b:7443"}, "host name"},
		"unspecified":    {record.TokenNode, perigee.Digest{1}, "a", []string{"0.0.0.0:7443"}, "others can't dial it"},
		"unspecified 6":  {record.TokenNode, perigee.Digest{1}, "a", []string{"[::]:7443"}, "others can't dial it"},
		"multicast":      {record.TokenNode, perigee.Digest{1}, "a", []string{"224.0.0.1:7443"}, "others can't dial it"},
		"zone":           {record.TokenNode, perigee.Digest{1}, "a", []string{"[fe80::1%eth0]:7443"}, "others can't dial it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewToken(tc.kind, tc.genesis, tc.signer, tc.addrs)
			wantError(t, err, "make token", tc.want)
		})
	}
}

func TestLineOfInvalidTokenPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	_ = Token{}.Line()
}

func TestTruncatedToken(t *testing.T) {
	line := testToken().Line()
	for n := range len(line) {
		want := errMangled
		if n == 0 || n < 3 {
			want = errNoToken
		}
		if _, err := ParseToken(line[:n]); !errors.Is(err, want) {
			t.Errorf("first %d characters: %v, want %v", n, err, want)
		}
		if n > 0 {
			if _, err := ParseToken(line[n:]); err == nil {
				t.Errorf("without the first %d characters: accepted", n)
			}
		}
	}
	for n := 1; n < 8; n++ {
		if _, err := ParseToken(line + strings.Repeat("A", n)); !errors.Is(err, errMangled) {
			t.Errorf("%d characters too many: %v", n, err)
		}
	}
}

func TestChangedToken(t *testing.T) {
	for _, signer := range []perigee.NodeID{"a", "ab", "abc"} { // the last character has 0, 2 or 4 bits to spare
		tok := testToken()
		tok.Signer = signer
		line := tok.Line()
		for i := len(tokenPrefix); i < len(line); i++ {
			for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/ =\n\x00\xff") {
				changed := line[:i] + string([]byte{c}) + line[i+1:]
				if strings.TrimSpace(changed) == line {
					continue
				}
				if _, err := ParseToken(changed); !errors.Is(err, errMangled) {
					t.Errorf("character %d changed to %q: %v, want %v", i, c, err, errMangled)
				}
			}
		}
	}
	line := testToken().Line()
	for _, gap := range []string{" ", "\n", "\r\n", "\t"} {
		if _, err := ParseToken(line[:50] + gap + line[50:]); !errors.Is(err, errMangled) {
			t.Errorf("broken by %q: %v", gap, err)
		}
	}
	if _, err := ParseToken(tokenPrefix + strings.Repeat("A", maxTokenLine)); !errors.Is(err, errMangled) {
		t.Errorf("huge: %v", err)
	}
}

func TestForeignText(t *testing.T) {
	for _, s := range []string{
		"", " ", "hello", "p", "pg", "pgtx", "pgtx_abc", "pgt_abc", "pgt0_abc", "pgt-1_abc", "pgt99999_abc", "PGT1_abc", "xpgt1_abc",
		"K10a1b2::server:c3d4", "eyJhbGciOiJIUzI1NiJ9.e30.x", "abcdef.0123456789abcdef", "-----BEGIN PRIVATE KEY-----",
	} {
		if _, err := ParseToken(s); !errors.Is(err, errNoToken) {
			t.Errorf("%q: %v, want %v", s, err, errNoToken)
		} else if len(s) > 5 && strings.Contains(err.Error(), s) {
			t.Errorf("%q: the error repeats it", s)
		}
	}
}

func TestNewerToken(t *testing.T) {
	good := bytesOf(t, testToken().Line())
	version, kind := bytes.Clone(good), bytes.Clone(good)
	version[0], kind[1] = 2, 4
	for name, line := range map[string]string{
		"prefix": "pgt2_abc", "large number": "pgt12_!", "version": lineOf(version), "kind": lineOf(kind),
	} {
		if _, err := ParseToken(line); !errors.Is(err, errNewerToken) {
			t.Errorf("%s: %v, want %v", name, err, errNewerToken)
		}
	}
}

// TestBadTail has good checksums: what a broken or hostile maker could write.
func TestBadTail(t *testing.T) {
	good := bytesOf(t, testToken().Line())
	head := good[:tokenHead]
	tail := func(parts ...string) []byte { return append(bytes.Clone(head), strings.Join(parts, "")...) }
	if _, err := ParseToken(lineOf(tail("\x01a", "\x01", "\x03h:1"))); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	noCluster := bytes.Clone(good)
	clear(noCluster[2:34])
	for name, b := range map[string][]byte{
		"nothing":         tail(),
		"no count":        tail("\x01a"),
		"no addresses":    tail("\x01a", "\x00"),
		"too few":         tail("\x01a", "\x02", "\x03h:1"),
		"too many":        tail("\x01a", "\x01", "\x03h:1", "\x03h:2"),
		"over the limit":  tail("\x01a", "\x11", strings.Repeat("\x03h:1", 17)),
		"long text":       tail("\x01a", "\x01", "\x04h:1"),
		"bad signer":      tail("\x01A", "\x01", "\x03h:1"),
		"empty signer":    tail("\x00", "\x01", "\x03h:1"),
		"bad address":     tail("\x01a", "\x01", "\x01h"),
		"cluster of zero": noCluster,
		"kind 0":          append([]byte{1, 0}, good[2:]...),
	} {
		if _, err := ParseToken(lineOf(b)); !errors.Is(err, errMangled) {
			t.Errorf("%s: %v, want %v", name, err, errMangled)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	tok := testToken()
	f.Add(tok.Line())
	tok.Kind, tok.Addrs = record.TokenOperator, tok.Addrs[:1]
	f.Add(tok.Line())
	f.Add("pgt2_x")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil && tok.Line() != strings.TrimSpace(s) {
			t.Errorf("accepted %q, whose line is %q", s, tok.Line())
		}
	})
}

// FuzzTokenBytes gets past the checksum.
func FuzzTokenBytes(f *testing.F) {
	f.Add([]byte(goldenLine))
	f.Add(append(make([]byte, tokenHead), "\x01a\x01\x03h:1"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		line := lineOf(b)
		if tok, err := ParseToken(line); err == nil && tok.Line() != line {
			t.Errorf("accepted %q, whose line is %q", line, tok.Line())
		}
	})
}

// TestSecretsStaySecret prints and logs all that holds a key, in every way at hand.
func TestSecretsStaySecret(t *testing.T) {
	tok := testToken()
	l := newLab(t)
	node := l.node("n1", 0)
	for name, tc := range map[string]struct {
		value  any
		secret []byte
		want   string
	}{
		"token":            {tok, tok.Seed[:], "node token " + string(tok.ID()) + ", redeemed at fra-1"},
		"pointer to token": {&tok, tok.Seed[:], "node token " + string(tok.ID()) + ", redeemed at fra-1"},
		"node":             {node, node.Key().Seed(), "node n1 of cluster " + string(l.cluster)},
		"authority":        {l.signer, l.signer.key.(interface{ Seed() []byte }).Seed(), "mesh intermediate CA"},
	} {
		t.Run(name, func(t *testing.T) {
			forms := []string{hex.EncodeToString(tc.secret), base64.StdEncoding.EncodeToString(tc.secret)[:40], base64.RawURLEncoding.EncodeToString(tc.secret)[:40], string(tc.secret)}
			list := strings.Trim(fmt.Sprint(tc.secret), "[]")
			forms = append(forms, list, strings.ReplaceAll(list, " ", ","), strings.ToUpper(forms[0]))
			check := func(how, out string) {
				t.Helper()
				if !strings.Contains(out, tc.want) {
					t.Errorf("%s: %q does not say %q", how, out, tc.want)
				}
				for _, f := range forms {
					if strings.Contains(out, f) {
						t.Errorf("%s shows the secret: %q", how, out)
					}
				}
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t"} {
				check(verb, fmt.Sprintf(verb, tc.value))
			}
			check("Println", fmt.Sprintln(tc.value))
			check("error", fmt.Errorf("use %v", tc.value).Error())
			check("slice", fmt.Sprintf("%+v", []any{tc.value}))
			check("struct", fmt.Sprintf("%+v", struct{ V any }{tc.value}))
			var text, js bytes.Buffer
			slog.New(slog.NewTextHandler(&text, nil)).Info("use", "v", tc.value)
			check("slog text", text.String())
			slog.New(slog.NewJSONHandler(&js, nil)).Info("use", "v", tc.value)
			check("slog JSON", js.String())
			if strings.Contains(name, "token") {
				check("JSON", string(must(json.Marshal(map[string]any{"v": tc.value}))(t)))
			}
		})
	}
}
