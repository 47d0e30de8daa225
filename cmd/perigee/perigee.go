// Perigee is an edge-distributed function gateway: one binary on machines in several places. They
// find each other, keep one another's function bundles, and answer HTTPS requests by running a
// WebAssembly handler on the nearest node that is warm, allowed and not overloaded.
//
//	perigee dev [DIR] [--regions fra,wdc,syd]   a real cluster in one process, with simulated distances
//
//	perigee check [DIR|FILE…]                   look at a function offline
//	perigee plan [DIR]                          where it would run
//	perigee explain placement FN | route URL    why it is there, why a request goes there
//	perigee what-if --lose fra                  what would happen
//	perigee placement show | set FN             where it runs, apart from its code
//	perigee deploy [DIR]                        make it live
//	perigee ls | show FN | invoke FN | rm FN    what is live
//	perigee logs FN [-f]                        what its guests logged, on all nodes
//	perigee usage [FN]                          what functions have used
//
//	perigee status                              the cluster, as one node sees it
//	perigee cert ls | renew HOST | import HOST CHAIN KEY   web certificates
//	perigee cluster init --region fra           make a cluster; this machine is its first node
//	perigee backup FILE; restore FILE           all of a cluster in one file, and a cluster of that file
//	perigee node run [--join TOKEN]             run this machine's node; join first if it is new
//	perigee node ls | drain | rm                the members
//	perigee token create | ls | revoke          rights to join (nodes) and to log in (people)
//	perigee region ls | add                     the places
//	perigee login TOKEN;  context ls | use      act on a cluster from a machine that is no node
//
// What all commands have in common (which cluster they act on, --json, exit statuses) is in the
// constant manual, which `perigee help` prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
)

const manual = `Perigee is an edge-distributed function gateway: one binary on machines in several places. They find
each other, keep one another's function bundles, and answer HTTPS requests by running a WebAssembly
handler on the nearest node that is warm, allowed and not overloaded.

A command finds its cluster by, in this order: --config FILE or --context NAME; the context that the
environment names (PERIGEE_CONTEXT); a node.toml in the working directory; the context that
"perigee login" or "perigee context use" chose; ` + systemConfig + `. What changes a cluster is signed: with
the context's key, or with operator.key beside node.toml, or with --key FILE.

Every listing and answer has --json. Exit status: 0 fine, 1 failed, 2 wrong usage.`

func main() {
	cobra.EnableCommandSorting = false // the help lists commands as they are met
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the program at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// endings are the signals that end a command in good order. A hang-up is one, unless whoever started
// the program ignores it, as nohup does.
func endings() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// usageError is a mistake in the words of a command.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errReported is returned by commands that have said what is wrong themselves.
var errReported = errors.New("reported")

// run runs one command and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	addCompletion(root)
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s\nusage: %s\n", said(cmd, err), cmd.UseLine())
		return 2
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	}
	fmt.Fprintln(stderr, said(cmd, err))
	return 1
}

// said puts the command before an error, so that each says what was being done. An error that begins
// with the command's name, like "deploy hello: …", goes on from there.
func said(cmd *cobra.Command, err error) string {
	text := err.Error()
	if p := cmd.Parent(); p == cmd.Root() && (strings.HasPrefix(text, cmd.Name()+" ") || strings.HasPrefix(text, cmd.Name()+":")) {
		return p.CommandPath() + " " + text
	}
	return cmd.CommandPath() + ": " + text
}

func newRoot() *cobra.Command {
	var t target
	root := group("perigee", "An edge-distributed function gateway")
	root.Long, root.Version = manual, perigee.Version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&t.config, "config", "", "talk to the node of this `FILE`, a node.toml")
	f.StringVar(&t.context, "context", "", "use the context of this `NAME`")
	f.StringVar(&t.key, "key", "", "sign with the key in this `FILE`")
	f.BoolVar(&t.json, "json", false, "print JSON, for programs")
	add := func(id, title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("functions", "Functions:", newDev(&t), newCheck(&t), newPlan(&t), newExplain(&t), newWhatIf(&t), newPlacement(&t), newDeploy(&t), newLs(&t), newShow(&t), newPromote(&t), newRollback(&t), newSecret(&t), newCache(&t), newInvoke(&t), newLogs(&t), newUsage(&t), newRm(&t))
	add("cluster", "Clusters and their nodes:", newStatus(&t), newCert(&t), newCluster(&t), newBackup(&t), newRestore(&t), newNode(&t), newToken(&t), newKey(&t), newRegion(&t))
	add("person", "This person, this machine:", newLogin(&t), newContext(&t))
	root.AddCommand(newAdmit())
	root.SetHelpCommand(newHelp())
	root.SetHelpCommandGroupID("person")
	root.SetCompletionCommandGroupID("person")
	return root
}

// addCompletion adds cobra's completion command, whose own errors would not count as wrong usage.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	c.Short = "Print the script that lets a shell complete commands"
	c.Args, c.RunE = onlyCommands, help
	for _, shell := range c.Commands() {
		shell.Args = exactly()
	}
}

// newHelp is cobra's help command, except that an unknown command is wrong usage.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usageError{err}
			}
			if len(rest) > 0 {
				return unknown(about, rest[0])
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// exactly is cobra.ExactArgs with an error that counts as wrong usage and says what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		return tooMany(len(names), args)
	}
}

// atMost is cobra.MaximumNArgs likewise.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error { return tooMany(n, args) }
}

func tooMany(n int, args []string) error {
	if len(args) > n {
		return usagef("%q is one argument too many", args[n])
	}
	return nil
}

// group makes a command that only has subcommands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, SuggestionsMinimumDistance: 2, Args: onlyCommands, RunE: help}
	c.AddCommand(subs...)
	return c
}

func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknown(cmd, args[0])
	}
	return nil
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func unknown(group *cobra.Command, word string) error {
	near := ""
	if s := group.SuggestionsFor(word); len(s) > 0 {
		near = fmt.Sprintf(" (did you mean %q?)", s[0])
	}
	return usagef("there is no command %q%s: `%s --help` lists them", word, near, group.CommandPath())
}
