package edgeproxy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// This file has the part of Structured Field Values (RFC 9651) that receipts need: dictionaries of
// tokens, strings, numbers and booleans.

func appendKey(b []byte, key string) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return append(append(b, key...), '=')
}

// appendItem writes s as a token if it is one, else as a string. Characters that a string can't
// hold become "?".
func appendItem(b []byte, s string) []byte {
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

// appendMillis writes d as a decimal of milliseconds with one digit after the point.
func appendMillis(b []byte, d time.Duration) []byte {
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

// bareItem is one value of a dictionary; the zero value stands for a boolean.
type bareItem struct {
	text    string  // of a token or string
	number  float64 // of an integer or decimal
	partial bool    // it has this parameter
}

const (
	maxDictionary = 4096 // bytes
	maxMembers    = 64
)

// parseDictionary reads a dictionary. Parameters but "partial" are read and dropped. Inner lists, byte sequences,
// dates and display strings are refused, since no receipt has them.
func parseDictionary(s string) (map[string]bareItem, error) {
	if len(s) > maxDictionary {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(s), maxDictionary)
	}
	d := map[string]bareItem{}
	p := sfParser{strings.Trim(s, " ")}
	for p.s != "" {
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		var v bareItem // a key alone means true
		if p.take('=') {
			if v, err = p.item(); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		if v.partial, err = p.parameters(); err != nil {
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

// sfParser holds what is not read yet.
type sfParser struct{ s string }

func (p *sfParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// span takes the longest prefix of characters that pass.
func (p *sfParser) span(pass func(byte) bool) string {
	n := 0
	for n < len(p.s) && pass(p.s[n]) {
		n++
	}
	out := p.s[:n]
	p.s = p.s[n:]
	return out
}

func (p *sfParser) key() (string, error) {
	if p.s == "" || !(p.s[0] >= 'a' && p.s[0] <= 'z') && p.s[0] != '*' {
		return "", fmt.Errorf("%.20q where a key should be", p.s)
	}
	return p.span(func(c byte) bool {
		return c >= 'a' && c <= 'z' || isDigit(c) || c == '_' || c == '-' || c == '.' || c == '*'
	}), nil
}

func (p *sfParser) parameters() (partial bool, err error) {
	for p.take(';') {
		p.s = strings.TrimLeft(p.s, " ")
		key, err := p.key()
		if err != nil {
			return false, err
		}
		partial = partial || key == paramPartial
		if p.take('=') {
			if _, err := p.item(); err != nil {
				return false, err
			}
		}
	}
	return partial, nil
}

func (p *sfParser) item() (bareItem, error) {
	switch {
	case p.s == "":
		return bareItem{}, errors.New("the value is missing")
	case p.s[0] == '"':
		return p.quoted()
	case p.s[0] == '-' || isDigit(p.s[0]):
		return p.number()
	case p.s[0] == '?':
		return p.boolean()
	case isAlpha(p.s[0]) || p.s[0] == '*':
		return bareItem{text: p.span(isTokenChar)}, nil
	}
	return bareItem{}, fmt.Errorf("%.20q is no token, string, number or boolean", p.s)
}

func (p *sfParser) quoted() (bareItem, error) {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return bareItem{text: b.String()}, nil
		case c == '\\':
			if i++; i == len(p.s) || p.s[i] != '"' && p.s[i] != '\\' {
				return bareItem{}, errors.New("bad escape in a string")
			}
			b.WriteByte(p.s[i])
		case c < 0x20 || c > 0x7e:
			return bareItem{}, fmt.Errorf("character %#02x in a string", c)
		default:
			b.WriteByte(c)
		}
	}
	return bareItem{}, errors.New("a string has no end")
}

func (p *sfParser) number() (bareItem, error) {
	sign := ""
	if p.take('-') {
		sign = "-"
	}
	whole, fraction := p.span(isDigit), ""
	if whole == "" || len(whole) > 15 {
		return bareItem{}, errors.New("a number has no digits, or more than 15")
	}
	if p.take('.') {
		fraction = p.span(isDigit)
		if len(whole) > 12 || fraction == "" || len(fraction) > 3 {
			return bareItem{}, errors.New("a decimal needs at most 12 digits before the point and 1 to 3 behind it")
		}
		fraction = "." + fraction
	}
	f, err := strconv.ParseFloat(sign+whole+fraction, 64)
	return bareItem{number: f}, err
}

func (p *sfParser) boolean() (bareItem, error) {
	if len(p.s) < 2 || p.s[1] != '0' && p.s[1] != '1' {
		return bareItem{}, errors.New("a boolean is ?0 or ?1")
	}
	p.s = p.s[2:]
	return bareItem{}, nil
}
