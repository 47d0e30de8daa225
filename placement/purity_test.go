package placement

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources parses the files of the package without its tests.
func sources(t *testing.T) (files []*ast.File, fset *token.FileSet) {
	t.Helper()
	fset = token.NewFileSet()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files, fset
}

// The package computes and does nothing else. It may import what can only compute, may use package
// time for its types but not for its clock, keeps no package-level variable and starts no goroutine.
func TestPurity(t *testing.T) {
	imports := []string{"cmp", "errors", "fmt", "maps", "math", "slices", "strconv", "strings", "time", "github.com/perigee-edge/perigee"}
	ofTime := []string{"Time", "Duration", "Millisecond", "Microsecond", "Second", "Minute"}
	files, fset := sources(t)
	for _, f := range files {
		for _, imp := range f.Imports {
			if path, _ := strconv.Unquote(imp.Path.Value); !slices.Contains(imports, path) {
				t.Errorf("%s: imports %s, which can do more than compute", fset.Position(imp.Pos()), path)
			}
		}
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				t.Errorf("%s: a package-level variable is state", fset.Position(g.Pos()))
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%s: goroutines and channels have no place here", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && x.Name == "time" && !slices.Contains(ofTime, n.Sel.Name) {
					t.Errorf("%s: time.%s: the time is an argument", fset.Position(n.Pos()), n.Sel.Name)
				}
				if ok && x.Name == "fmt" && n.Sel.Name != "Sprintf" && n.Sel.Name != "Errorf" {
					t.Errorf("%s: fmt.%s may be input or output", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}
