package gossip

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"strconv"
	"testing"
)

// coreFiles are what Core.Step runs. parallel.go is left out: it computes one result on several processors.
var coreFiles = []string{
	"authority.go", "check.go", "clock.go", "core.go", "merge.go", "parse.go", "pending.go", "pointer.go", "push.go", "records.go",
	"reduce.go", "replicate.go", "rows.go", "sync.go", "tree.go", "wire.go",
}

// TestCoreIsPure holds the files of the core against what a pure step function must not do.
func TestCoreIsPure(t *testing.T) {
	imports := map[string]bool{"context": true, "io": true, "log/slog": true, "net": true, "net/http": true, "os": true, "sync": true, "sync/atomic": true}
	calls := map[string]bool{
		"time.Now": true, "time.Since": true, "time.Until": true, "time.After": true, "time.AfterFunc": true, "time.NewTimer": true, "time.NewTicker": true, "time.Sleep": true,
		"rand.N": true, "rand.IntN": true, "rand.Float64": true, "rand.Uint64": true, "rand.Perm": true, "rand.Shuffle": true,
	}
	fset := token.NewFileSet()
	for _, name := range coreFiles {
		f, err := goparser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if path, _ := strconv.Unquote(imp.Path.Value); imports[path] {
				t.Errorf("%s: the core imports %s", fset.Position(imp.Pos()), path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: the core starts a goroutine", fset.Position(n.Pos()))
			case *ast.ChanType, *ast.SelectStmt:
				t.Errorf("%s: the core uses a channel", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && calls[x.Name+"."+n.Sel.Name] {
					t.Errorf("%s: the core calls %s.%s", fset.Position(n.Pos()), x.Name, n.Sel.Name)
				}
			}
			return true
		})
	}
}
