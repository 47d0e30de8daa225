package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// canonical brings a host into its one form, or says why it has none.
func canonical(host string) (string, error) {
	if strings.ContainsAny(host, ":%") {
		a, err := netip.ParseAddr(host)
		if err != nil || a.Zone() != "" {
			return "", fmt.Errorf("host %.80q is no IPv6 address without a zone", host)
		}
		return a.String(), nil
	}
	for _, c := range []byte(host) {
		if c >= 0x80 {
			ascii, err := idna.Lookup.ToASCII(host)
			if err != nil {
				return "", fmt.Errorf("host %.80q is no international host name: %w", host, err)
			}
			host = ascii
			break
		}
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), nil
	}
	if err := checkName(host); err != nil {
		return "", err
	}
	return host, nil
}

// checkName holds a host name against what resolvers take. A name whose last label is a number is
// refused, since some programs read such a name as an address (127.1, 0x7f000001, 2130706433).
func checkName(host string) error {
	if len(host) == 0 || len(host) > 253 {
		return errors.New("the host is empty, or longer than 253 bytes")
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if len(label) == 0 || len(label) > 63 {
			return fmt.Errorf("host %.80q has a label that is empty or longer than 63 bytes", host)
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("host %.80q contains %q: use letters, digits, '-' and '.'", host, c)
			}
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return fmt.Errorf("host %.80q ends in a number and is no address: write an address as four numbers, 192.0.2.1", host)
	}
	return nil
}
