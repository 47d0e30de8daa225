package record

import (
	"crypto/ed25519"
	"path"
	"time"

	"github.com/perigee-edge/perigee"
)

// Kind names the type of a payload.
type Kind string

// The kinds. Who may write each is decided by package gossip and listed in docs/security.md.
const (
	KindGenesis  Kind = "genesis"
	KindToken    Kind = "token"
	KindRedeem   Kind = "redeem"
	KindRevoke   Kind = "revoke"
	KindRegion   Kind = "region"
	KindRevision Kind = "revision"
	KindPointer  Kind = "pointer"
	KindWeb      Kind = "web"
	KindSecret   Kind = "secret"
	KindPurge    Kind = "purge"
)

// Payload is one of the types below.
type Payload interface{ kind() Kind }

func (k Kind) zero() Payload {
	switch k {
	case KindGenesis:
		return new(Genesis)
	case KindToken:
		return new(Token)
	case KindRedeem:
		return new(Redeem)
	case KindRevoke:
		return new(Revoke)
	case KindRegion:
		return new(Region)
	case KindRevision:
		return new(Revision)
	case KindPointer:
		return new(Pointer)
	case KindWeb:
		return new(Web)
	case KindSecret:
		return new(Secret)
	case KindPurge:
		return new(Purge)
	}
	return nil
}

// Genesis is the first record of a cluster, or of one that was restored, and its root of trust. Tokens carry
// its digest, so a joining node or person knows that it reached the right cluster.
type Genesis struct {
	Cluster  perigee.ClusterID `json:"cluster"`
	Domain   string            `json:"domain"`
	Operator ed25519.PublicKey `json:"operator"` // the key that signs this record and all operator records
	Root     []byte            `json:"root"`     // DER of the CA certificate that node certificates chain to
	WebRoot  []byte            `json:"web_root"` // DER of the CA certificate for hosts without a public name

	// Of a cluster that was restored from a backup: the genesis record of the epoch before, and the last
	// stamp of the backup's records. What the epoch before wrote later is void.
	Before []byte `json:"before,omitempty"`
	Until  HLC    `json:"until,omitempty"`
}

// TokenKind says what a token makes of its bearer.
type TokenKind string

// The kinds of token.
const (
	TokenNode     TokenKind = "node"
	TokenDeploy   TokenKind = "deploy"
	TokenOperator TokenKind = "operator"
)

// Token is the public half of a token, signed by an operator key. The secret half, an Ed25519
// seed, is only in the line that the operator hands over.
type Token struct {
	Kind    TokenKind         `json:"kind"`
	Public  ed25519.PublicKey `json:"public"`
	Signer  perigee.NodeID    `json:"signer"`  // the node that redeems it, once
	Expires int64             `json:"expires"` // Unix seconds
	Region  perigee.Region    `json:"region,omitempty"`
	Zone    string            `json:"zone,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Roles   []perigee.Role    `json:"roles,omitempty"`
	Scope   Scope             `json:"scope"`
}

// ExpiresAt returns the end of the token's life.
func (t *Token) ExpiresAt() time.Time { return time.Unix(t.Expires, 0) }

// Scope bounds what a deploy key may touch. The patterns are those of path.Match; an empty list
// allows everything.
type Scope struct {
	Functions  []string `json:"functions,omitempty"`
	Hosts      []string `json:"hosts,omitempty"`
	Placements []string `json:"placements,omitempty"` // places, as a manifest writes them
	// PlacementOnly says that the key changes where functions run, and neither their code nor their secrets.
	PlacementOnly bool `json:"placement_only,omitempty"`
}

// AllowsPlacement reports whether the scope covers where a policy lets a function run: all entries of
// its residency, or all of its pin, are among the places. It compares names, so that the answer does
// not change with the catalogue of regions.
func (s Scope) AllowsPlacement(p *perigee.Policy) bool {
	within := func(list []string) bool {
		for _, place := range list {
			if !matchAny(s.Placements, place) {
				return false
			}
		}
		return len(list) > 0
	}
	return len(s.Placements) == 0 || within(p.Residency) || within(p.Pin)
}

// AllowsFunction reports whether the scope covers a function's name.
func (s Scope) AllowsFunction(name string) bool { return matchAny(s.Functions, name) }

// AllowsHost reports whether the scope covers a host that a manifest names.
func (s Scope) AllowsHost(host string) bool { return matchAny(s.Hosts, host) }

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, s); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}

// Redeem binds a token to the one key that used it. A signer node writes it; the bearer's proof
// inside shows that the signer did not choose the key itself.
type Redeem struct {
	Token  perigee.KeyID     `json:"token"`          // KeyIDOf the token's public key
	Public ed25519.PublicKey `json:"public"`         // the new node's or person's key
	Node   perigee.NodeID    `json:"node,omitempty"` // the new node's name; empty for people
	Proof  []byte            `json:"proof"`          // the token key's signature over RedeemMessage
	Chain  [][]byte          `json:"chain"`          // DER certificates of the signer, leaf first, without the root
}

// RedeemMessage returns what the bearer of a token signs with the token's key.
func RedeemMessage(cluster perigee.ClusterID, public ed25519.PublicKey, node perigee.NodeID) []byte {
	b := append([]byte("perigee redeem v1\x00"), cluster...)
	b = append(append(b, 0), node...)
	return append(append(b, 0), public...)
}

// Revoke ends the life of a node's certificate or of a key. It is for ever.
type Revoke struct {
	Node perigee.NodeID `json:"node,omitempty"`
	Key  perigee.KeyID  `json:"key,omitempty"`
}

// Region adds a region to the catalogue, or replaces one.
type Region struct {
	Info perigee.RegionInfo `json:"info"`
}

// Revision is a version of a function.
type Revision struct {
	Manifest perigee.Manifest `json:"manifest"`
	Bundle   perigee.Digest   `json:"bundle"`
	Size     perigee.Bytes    `json:"size"`
}

// RevisionID returns the name of the revision that the record with this identity introduces.
func RevisionID(id perigee.Digest) perigee.RevisionID { return perigee.RevisionID(id.Short()) }

// Pointer makes a revision the live one of a function, or removes the function. The record's
// parents are the pointers it replaces.
type Pointer struct {
	Function string         `json:"function"`
	Revision perigee.Digest `json:"revision"` // identity of the revision record; zero = removed
	// Placement stands in the place of the manifest's, for this pointer only: a rollback keeps the
	// hard rules of what it replaces, and a placement changes without a new bundle. nil = the manifest's.
	Placement *perigee.Policy `json:"placement,omitempty"`
	// Rollout is "all" for a revision that is to run everywhere at once; "" = in stages.
	Rollout string `json:"rollout,omitempty"`
	// Past names pointers that those among the parents replaced, nearest first, at most MaxPast: as long as
	// their names are here, the records themselves can go.
	Past []perigee.Digest `json:"past,omitempty"`
}

// MaxPast bounds Pointer.Past.
const MaxPast = 64

// Web is something that nodes share to answer HTTPS: a certificate with its key, the account that
// certificates are ordered with, when they were ordered, the keys of session tickets. An issuer node writes it; the latest of an item and name counts.
type Web struct {
	Item    perigee.WebItem `json:"item"`
	Name    string          `json:"name"`    // of a certificate and of orders: the host, or "*." and a domain; of an account: the URL of the CA's directory; of tickets: a host, or "*"
	Version uint64          `json:"version"` // in the context of the envelope, so that it can't stand in for another
	Expires int64           `json:"expires"` // Unix seconds; 0 = never
	Sealed  []byte          `json:"sealed"`  // an envelope of package identity
	Chain   [][]byte        `json:"chain"`   // DER certificates of the issuer, leaf first, without the root
}

// Secret is the value of a secret of a function, sealed by the person who signs to the nodes that may
// run the function. The latest counts.
type Secret struct {
	Function string `json:"function"`
	Name     string `json:"name"`
	Sealed   []byte `json:"sealed,omitempty"` // envelope (package identity) with the record's HLC as its version; empty = removed
}

// Purge ends the use of responses that gateways stored before it came to them. Of the same words the latest
// counts.
type Purge struct {
	perigee.PurgeMatch
}

func (*Purge) kind() Kind    { return KindPurge }
func (*Secret) kind() Kind   { return KindSecret }
func (*Web) kind() Kind      { return KindWeb }
func (*Genesis) kind() Kind  { return KindGenesis }
func (*Token) kind() Kind    { return KindToken }
func (*Redeem) kind() Kind   { return KindRedeem }
func (*Revoke) kind() Kind   { return KindRevoke }
func (*Region) kind() Kind   { return KindRegion }
func (*Revision) kind() Kind { return KindRevision }
func (*Pointer) kind() Kind  { return KindPointer }
