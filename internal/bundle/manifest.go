package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/strict"
)

// ManifestName is the name of the file that declares a function.
const ManifestName = "perigee.toml"

// DefaultManifest returns what an empty manifest means. Name and Wasm have no default.
func DefaultManifest() perigee.Manifest {
	return perigee.Manifest{
		Next:      nextFiles,
		Isolation: isolationRequest,
		Steer:     steerPrefer,
		Limits:    perigee.Limits{Memory: perigee.DefaultMemory, Timeout: perigee.DefaultTimeout},
		Placement: perigee.Policy{Near: perigee.NearClient, Survive: perigee.SurviveNode, OnUnsatisfiable: perigee.OnReject},
	}
}

// LoadManifest reads and checks the manifest in a directory.
func LoadManifest(dir string) (*perigee.Manifest, error) { return LoadManifestFor(dir, nil) }

// LoadManifestFor is LoadManifest for a cluster with these regions.
func LoadManifestFor(dir string, regions *perigee.Regions) (*perigee.Manifest, error) {
	file := filepath.Join(dir, ManifestName)
	b, err := strict.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no %s in %s: write one (name and wasm are enough), or name the directory that has it: %w", ManifestName, dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return ParseManifestFor(file, b, regions)
}

// ParseManifest decodes and checks a manifest. Keys that are left out have their defaults. The
// file name is only for errors, which name the line, the key and the rule; all that is wrong is
// reported at once.
func ParseManifest(file string, b []byte) (*perigee.Manifest, error) {
	return ParseManifestFor(file, b, nil)
}

// ParseManifestFor is ParseManifest for a cluster with these regions: places that it does not have
// are refused. With nil regions, names are not checked.
func ParseManifestFor(file string, b []byte, regions *perigee.Regions) (*perigee.Manifest, error) {
	m := DefaultManifest()
	doc, err := strict.Decode(file, b, &m)
	if err != nil {
		return nil, err
	}
	if err := CheckManifest(&m, regions); err != nil {
		return nil, doc.Place(err)
	}
	return &m, nil
}

// ParsePlacement decodes and checks the placement block of a manifest, or of a file that has little else,
// in a cluster with these regions. The name is the manifest's; "" = the file says none.
func ParsePlacement(file string, b []byte, regions *perigee.Regions) (name string, p *perigee.Policy, err error) {
	m := DefaultManifest()
	doc, err := strict.Decode(file, b, &m)
	if err != nil {
		return "", nil, err
	}
	if !doc.Has("placement") {
		return "", nil, fmt.Errorf("%s has no [placement]: write one, empty to allow every node", file)
	}
	if err := CheckPlacement(&m.Placement, regions); err != nil {
		return "", nil, doc.Place(err)
	}
	return m.Name, &m.Placement, nil
}

// CheckPlacement holds a placement against the rules of manifests, in a cluster with these regions.
func CheckPlacement(p *perigee.Policy, regions *perigee.Regions) error {
	c := checker{regions: regions}
	c.policy(p)
	return c.problems.Err()
}
