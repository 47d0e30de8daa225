// Package sfv reads and writes the part of Structured Field Values (RFC 9651) that the fields of a gateway
// need: dictionaries of tokens, strings, numbers and booleans. It knows no field, and starts no goroutine.
package sfv

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AppendKey begins a member of a dictionary.
func AppendKey(b []byte, key string) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return append(append(b, key...), '=')
}

// AppendItem writes s as a token if it is one, else as a string. Characters that a string can't
// hold become "?".
func AppendItem(b []byte, s string) []byte {
	if isToken(s) {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20 || c > 0x7e:
			b = append(b, '?')
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// AppendMillis writes d as a decimal of milliseconds with one digit after the point.
func AppendMillis(b []byte, d time.Duration) []byte {
	tenths := int64((d + 50*time.Microsecond) / (100 * time.Microsecond))
	b = strconv.AppendInt(b, tenths/10, 10)
	return append(b, '.', byte('0'+tenths%10))
}

// isToken reports whether s is a token (RFC 9651, section 3.3.4): those start with a letter or '*'.
func isToken(s string) bool {
	if s == "" || !isAlpha(s[0]) && s[0] != '*' {
		return false
	}
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return true
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isTokenChar(c byte) bool {
	return isAlpha(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
}

// Item is one value of a dictionary. The zero Item is the boolean true.
type Item struct {
	Text    string  // of a token or string
	Number  float64 // of an integer or decimal
	Kind    Kind
	Partial bool // it has the parameter "partial"
}

// Kind is the type of an Item.
type Kind uint8

// The kinds.
const (
	True Kind = iota
	False
	Number
	Text // a token or a string
)

const (
	maxDictionary = 4096 // bytes
	maxMembers    = 64
)

// partial is the one parameter that is not dropped.
const partial = "partial"

// ParseDictionary reads a dictionary of at most 4,096 bytes and 64 members. Parameters but "partial" are read and
// dropped. Inner lists, byte sequences, dates and display strings are refused, since no field of ours has them.
func ParseDictionary(s string) (map[string]Item, error) {
	if len(s) > maxDictionary {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(s), maxDictionary)
	}
	d := map[string]Item{}
	p := parser{strings.Trim(s, " ")}
	for p.s != "" {
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		var v Item // a key alone means true
		if p.take('=') {
			if v, err = p.item(); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		if v.Partial, err = p.parameters(); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if d[key] = v; len(d) > maxMembers {
			return nil, fmt.Errorf("more than %d keys", maxMembers)
		}
		p.s = strings.TrimLeft(p.s, " \t")
		if p.s == "" {
			break
		}
		if !p.take(',') {
			return nil, fmt.Errorf("%.20q where a comma should be", p.s)
		}
		if p.s = strings.TrimLeft(p.s, " \t"); p.s == "" {
			return nil, errors.New("it ends with a comma")
		}
	}
	return d, nil
}

// parser holds what is not read yet.
type parser struct{ s string }

func (p *parser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// span takes the longest prefix of characters that pass.
func (p *parser) span(pass func(byte) bool) string {
	n := 0
	for n < len(p.s) && pass(p.s[n]) {
		n++
	}
	out := p.s[:n]
	p.s = p.s[n:]
	return out
}

func (p *parser) key() (string, error) {
	if p.s == "" || !(p.s[0] >= 'a' && p.s[0] <= 'z') && p.s[0] != '*' {
		return "", fmt.Errorf("%.20q where a key should be", p.s)
	}
	return p.span(func(c byte) bool {
		return c >= 'a' && c <= 'z' || isDigit(c) || c == '_' || c == '-' || c == '.' || c == '*'
	}), nil
}

func (p *parser) parameters() (found bool, err error) {
	for p.take(';') {
		p.s = strings.TrimLeft(p.s, " ")
		key, err := p.key()
		if err != nil {
			return false, err
		}
		found = found || key == partial
		if p.take('=') {
			if _, err := p.item(); err != nil {
				return false, err
			}
		}
	}
	return found, nil
}

func (p *parser) item() (Item, error) {
	switch {
	case p.s == "":
		return Item{}, errors.New("the value is missing")
	case p.s[0] == '"':
		return p.quoted()
	case p.s[0] == '-' || isDigit(p.s[0]):
		return p.number()
	case p.s[0] == '?':
		return p.boolean()
	case isAlpha(p.s[0]) || p.s[0] == '*':
		return Item{Kind: Text, Text: p.span(isTokenChar)}, nil
	}
	return Item{}, fmt.Errorf("%.20q is no token, string, number or boolean", p.s)
}

func (p *parser) quoted() (Item, error) {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return Item{Kind: Text, Text: b.String()}, nil
		case c == '\\':
			if i++; i == len(p.s) || p.s[i] != '"' && p.s[i] != '\\' {
				return Item{}, errors.New("bad escape in a string")
			}
			b.WriteByte(p.s[i])
		case c < 0x20 || c > 0x7e:
			return Item{}, fmt.Errorf("character %#02x in a string", c)
		default:
			b.WriteByte(c)
		}
	}
	return Item{}, errors.New("a string has no end")
}

func (p *parser) number() (Item, error) {
	sign := ""
	if p.take('-') {
		sign = "-"
	}
	whole, fraction := p.span(isDigit), ""
	if whole == "" || len(whole) > 15 {
		return Item{}, errors.New("a number has no digits, or more than 15")
	}
	if p.take('.') {
		fraction = p.span(isDigit)
		if len(whole) > 12 || fraction == "" || len(fraction) > 3 {
			return Item{}, errors.New("a decimal needs at most 12 digits before the point and 1 to 3 behind it")
		}
		fraction = "." + fraction
	}
	f, err := strconv.ParseFloat(sign+whole+fraction, 64)
	return Item{Kind: Number, Number: f}, err
}

func (p *parser) boolean() (Item, error) {
	if len(p.s) < 2 || p.s[1] != '0' && p.s[1] != '1' {
		return Item{}, errors.New("a boolean is ?0 or ?1")
	}
	kind := True
	if p.s[1] == '0' {
		kind = False
	}
	p.s = p.s[2:]
	return Item{Kind: kind}, nil
}
