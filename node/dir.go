package node

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// Dir is a node's data directory. A node owns it alone.
//
//	node.key     the node's Ed25519 key           signer.pem  the intermediate CA (signer nodes)
//	node.pem     its certificate chain            web.pem     the CA of hosts without a public name (signer nodes)
//	genesis.rec  the cluster's first record       seeds.rec   what the join told: addresses for the first start
//	gossip.key   key of the membership packets    lock        held by the process that uses the directory
//	state/  signed records    bundles/  archives    code/  compiled code    web/  hosts' certificates    admin.sock
//	copies/  second copies of the files above (copies.go)    trials/  first runs of revisions (trials.go)
//	usage   what functions used here (package usage)
type Dir string

const gossipKeySize = 32

// file names inside a Dir
const (
	fileKey     = "node.key"
	fileChain   = "node.pem"
	fileGenesis = "genesis.rec"
	fileGossip  = "gossip.key"
	fileSigner  = "signer.pem"
	fileWeb     = "web.pem"
	fileLock    = "lock"
	fileSocket  = "admin.sock"
	fileSeeds   = "seeds.rec"
	fileUsage   = "usage"
)

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Socket returns the path of the admin socket that a node with this directory serves by default.
func (d Dir) Socket() string { return d.path(fileSocket) }

// Member reports whether the directory belongs to a node of a cluster.
func (d Dir) Member() bool {
	_, err := os.Stat(d.path(fileGenesis))
	return err == nil
}

// Check reads the files of a member and says who it is; it changes nothing.
func (d Dir) Check() (perigee.NodeClaims, error) {
	m, _, err := d.load()
	if err != nil {
		return perigee.NodeClaims{}, err
	}
	return m.identity.Claims(), nil
}

// membership is everything a directory says about who the node is.
type membership struct {
	genesisRecord []byte
	genesis       *record.Genesis
	genesisDigest perigee.Digest
	epoch         uint32 // that the genesis began
	identity      *identity.Node
	gossipKey     []byte
	signer, web   *identity.Authority // both, or nil: this node is no signer
	rotten        map[string]string   // files that had changed on the disk, and what was done about it
}

// key returns the node's public key.
func (m *membership) key() ed25519.PublicKey {
	return m.identity.Key().Public().(ed25519.PublicKey)
}

func (d Dir) errMember() error {
	return fmt.Errorf("data directory %s already belongs to a cluster: use another data_dir, or remove this one to start over", d)
}

// found writes the files of a new member; the caller has locked the directory. The genesis comes
// last: a directory with one is complete.
func (d Dir) found(m *membership) error {
	if d.Member() {
		return d.errMember()
	}
	if err := d.saveKey(m.identity.Key()); err != nil {
		return err
	}
	if err := d.saveChain(m.identity.Chain()); err != nil {
		return err
	}
	for _, ca := range []struct {
		name string
		a    *identity.Authority
	}{{fileSigner, m.signer}, {fileWeb, m.web}} {
		if ca.a == nil {
			continue
		}
		b, err := ca.a.Marshal()
		if err == nil {
			err = writeFile(d.path(ca.name), b)
		}
		if err != nil {
			return err
		}
	}
	if err := writeFile(d.path(fileGossip), withSum([]byte(hex.EncodeToString(m.gossipKey)))); err != nil {
		return err
	}
	return writeFile(d.path(fileGenesis), m.genesisRecord)
}

// saveKey writes the node's key, unless it is there. A key without a genesis is left over from a join
// that was interrupted.
func (d Dir) saveKey(key ed25519.PrivateKey) error {
	if old, err := identity.LoadKey(d.path(fileKey)); err == nil && old.Equal(key) {
		return nil
	}
	if err := os.Remove(d.path(fileKey)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return identity.SaveKey(d.path(fileKey), key)
}

func (d Dir) saveChain(chain [][]byte) error {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return writeFile(d.path(fileChain), out)
}

// What to do about a file that can't be used, for people.
const (
	remedyNone   = "make a cluster with `perigee cluster init`, or join one with `perigee node run --join TOKEN`"
	remedyRejoin = "restore the file from a backup of this machine, or delete the data directory and join again with a new token and another id"
	remedyCA     = "restore signer.pem and web.pem from a backup of this machine, or from another signer's data directory"
	remedyGossip = "copy the file from another node's data directory"
	remedySeeds  = "without it the node looks for the peers it knew last, and needs advertise in node.toml if its address is translated"
)

// load reads what found wrote. Errors name the file and what to do about it.
func (d Dir) load() (*membership, seedFile, error) {
	m := membership{rotten: map[string]string{}}
	var seeds seedFile
	for _, f := range []struct {
		names  []string // of the files that are read together
		remedy string
		read   func(path string) error
	}{
		{[]string{fileGenesis}, remedyRejoin, m.readGenesis},
		{[]string{fileKey, fileChain}, remedyRejoin, func(string) error { return m.readIdentity(d) }},
		{[]string{fileGossip}, remedyGossip, m.readGossipKey},
		{[]string{fileSigner, fileWeb}, remedyCA, func(string) error { return m.readAuthorities(d) }},
		{[]string{fileSeeds}, remedySeeds, seeds.read},
	} {
		path := d.path(f.names[0])
		restored, err := d.readTwice(f.names, func() error { return f.read(path) })
		for _, name := range restored {
			m.rotten[name] = "restored from its copy"
		}
		if err != nil && f.names[0] == fileSeeds { // only hints are in it
			m.rotten[fileSeeds], err = "put aside: "+remedySeeds, os.Rename(path, path+badSuffix)
		}
		switch {
		case err == nil:
		case f.names[0] == fileGenesis && errors.Is(err, fs.ErrNotExist):
			return nil, seeds, fmt.Errorf("data directory %s belongs to no cluster: %s", d, remedyNone)
		default:
			return nil, seeds, fmt.Errorf("data directory %s: %w: %s", d, err, f.remedy)
		}
	}
	return &m, seeds, nil
}

func (m *membership) readGenesis(path string) (err error) {
	if m.genesisRecord, err = os.ReadFile(path); err != nil {
		return err
	}
	epochs, err := record.OpenGenesis(m.genesisRecord)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	m.begun(epochs[len(epochs)-1])
	return nil
}

// begun notes the epoch of the cluster in which the node lives.
func (m *membership) begun(e record.Epoch) {
	m.genesisRecord, m.genesis, m.genesisDigest, m.epoch = e.Raw, e.Genesis, e.ID, e.Number
}

func (m *membership) readIdentity(d Dir) error {
	root, err := x509.ParseCertificate(m.genesis.Root)
	if err != nil {
		return fmt.Errorf("read %s: root certificate: %w", d.path(fileGenesis), err)
	}
	key, err := identity.LoadKey(d.path(fileKey))
	if err != nil {
		return err
	}
	chain, err := d.loadChain()
	if err != nil {
		return err
	}
	if m.identity, err = identity.NewNode(m.genesis.Cluster, root, key, chain); err != nil {
		return fmt.Errorf("%s, %s and %s do not belong together: %w", fileKey, fileChain, fileGenesis, err)
	}
	return nil
}

func (m *membership) readGossipKey(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, whole := unsum(text)
	if m.gossipKey, err = hex.DecodeString(strings.TrimSpace(string(text))); err != nil || !whole || len(m.gossipKey) != gossipKeySize {
		return fmt.Errorf("read %s: want %d bytes in hexadecimal, and on the next line their digest", path, gossipKeySize)
	}
	return nil
}

func (m *membership) readAuthorities(d Dir) (err error) {
	if m.signer, err = loadAuthority(d.path(fileSigner), m.genesis.Cluster); err != nil {
		return err
	}
	if m.web, err = loadAuthority(d.path(fileWeb), m.genesis.Cluster); err != nil {
		return err
	}
	if (m.signer == nil) != (m.web == nil) {
		return fmt.Errorf("of %s and %s only one is there, and a signer needs both", fileSigner, fileWeb)
	}
	return nil
}

func (d Dir) loadChain() ([][]byte, error) {
	rest, err := os.ReadFile(d.path(fileChain))
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("read %s: no certificate in it", d.path(fileChain))
	}
	return chain, nil
}

// loadAuthority reads a CA; nil = there is no file.
func loadAuthority(path string, cluster perigee.ClusterID) (*identity.Authority, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := identity.ParseAuthority(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if a.Cluster() != cluster {
		return nil, fmt.Errorf("read %s: it is of cluster %s, and this node of %s", path, a.Cluster(), cluster)
	}
	return a, nil
}

// read reads what the join left for the first start; no file is no error.
func (f *seedFile) read(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b, whole := unsum(b)
	if err := record.Unmarshal(b, f); err != nil || !whole {
		*f = seedFile{}
		return fmt.Errorf("read %s: it changed on the disk", path)
	}
	return nil
}

// writeFile replaces a file so that after a crash either the old or the new content is there.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
