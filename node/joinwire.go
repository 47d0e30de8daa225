package node

import (
	"net/netip"

	"github.com/perigee-edge/perigee"
)

// The join protocol: CBOR bodies over ALPN perigee-join/1, where the server shows its certificates
// and the client none. What the client may do follows from the proofs in the body, bound to the
// connection (identity.JoinProof).
//
//	GET  /genesis      the genesis record; its digest is in the token
//	POST /name         nameRequest -> nameReply: which node id the cluster has free
//	POST /join         joinRequest, signed -> joinReply: a token becomes a node
//	POST /login        loginRequest, signed -> loginReply: a token becomes a person's key
//	POST /renew        renewRequest, signed -> renewReply: a node's certificate, at any age
//
// A join or login whose answer got lost is repeated with the same key: that key gets the same answer
// again, and no other key does.

type nameRequest struct {
	Token  perigee.KeyID  `json:"token"`
	Want   perigee.NodeID `json:"want"`   // "" = the cluster chooses <region>-<n>
	Public []byte         `json:"public"` // the node's key: one that used the token before keeps its name
}

type nameReply struct {
	ID     perigee.NodeID `json:"id"`
	Region perigee.Region `json:"region"`
}

type joinRequest struct {
	Token     perigee.KeyID  `json:"token"`
	ID        perigee.NodeID `json:"id"`
	Public    []byte         `json:"public"`    // the node's key
	Redeem    []byte         `json:"redeem"`    // the token key's signature over record.RedeemMessage
	Advertise string         `json:"advertise"` // where the cluster reaches the node's mesh port; host empty = as seen from here
}

type seed struct {
	ID   perigee.NodeID `json:"id"`
	Addr string         `json:"addr"`
}

type joinReply struct {
	Chain     [][]byte `json:"chain"`
	GossipKey []byte   `json:"gossip_key"`
	Advertise string   `json:"advertise"` // the address that the cluster reached
	Seeds     []seed   `json:"seeds"`
	Signer    []byte   `json:"signer,omitempty"` // the intermediate CA, for nodes with the role
	Web       []byte   `json:"web,omitempty"`
}

type loginRequest struct {
	Token  perigee.KeyID `json:"token"`
	Public []byte        `json:"public"` // the person's key
	Redeem []byte        `json:"redeem"`
}

type loginReply struct {
	Key   perigee.KeyID `json:"key"`
	Role  string        `json:"role"`
	Addrs []string      `json:"addrs"` // nodes to talk to
}

type renewRequest struct {
	Chain [][]byte `json:"chain"` // the certificate to renew, of any age
}

// standingRequest asks whether the cluster has removed the node with a certificate.
type standingRequest struct {
	Chain [][]byte `json:"chain"` // its certificate, of any age
}

type standingReply struct {
	Records [][]byte `json:"records"` // that removed it; none = it is a member
}

type renewReply struct {
	Chain [][]byte `json:"chain"`
}

// signed is a request with the proofs that its sender holds keys: identity.JoinProof over Body.
type signed struct {
	Body  []byte `json:"body"`
	Proof []byte `json:"proof"`           // by the token's key, or by that of the certificate to renew
	Owner []byte `json:"owner,omitempty"` // by the key that the token becomes
}

type joinError struct {
	Error string `json:"error"`
	Dial  string `json:"dial,omitempty"`  // ask the node at this address instead
	Taken bool   `json:"taken,omitempty"` // the node id is: choose another
	Deaf  bool   `json:"deaf,omitempty"`  // the node that was asked did not hear from the machine's address
}

// seedFile is what a join leaves for the node's first start: seeds.rec in its directory.
type seedFile struct {
	Advertise string `json:"advertise"`
	Local     uint16 `json:"local"` // port of the mesh socket then; Advertise holds while it is the same
	Own       bool   `json:"own"`   // the address was one of the machine's own, not one that is translated
	Seeds     []seed `json:"seeds"`
}

// joined reports whether the node came by a token, rather than found the cluster.
func (f *seedFile) joined() bool { return f.Advertise != "" }

func (f *seedFile) addrs() []string {
	var out []string
	for _, s := range f.Seeds {
		out = append(out, s.Addr)
	}
	return out
}

// addrPorts returns the addresses that can be read.
func (f *seedFile) addrPorts() []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range f.addrs() {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}
