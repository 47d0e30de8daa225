package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee/node"
)

func newCert(t *target) *cobra.Command {
	c := &cobra.Command{Use: "cert", Short: "Web certificates of the hosts that functions answer at", Args: exactly()}
	c.AddCommand(newCertLs(t), newCertRenew(t), newCertImport(t))
	return c
}

func newCertLs(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the hosts and their certificates", Args: exactly(),
		Long: "Ls says for each host whether its certificate comes from a public CA, which browsers trust, or from the\n" +
			"cluster's own, until when it is good, and what is known of an order that failed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			list, err := p.Certs(cmd.Context())
			if err != nil {
				return err
			}
			out := newTable("HOST", "FROM", "EXPIRES", "STATE")
			for _, c := range list {
				expires := ""
				if !c.Expires.IsZero() {
					expires = fmt.Sprintf("%s (%s)", c.Expires.Format(time.DateOnly), days(time.Until(c.Expires)))
				}
				out.row(c.Host, c.From+" CA", expires, certState(&c))
			}
			return t.print(cmd, list, out)
		},
	}
}

func days(d time.Duration) string {
	switch {
	case d < 0:
		return "over"
	case d < 48*time.Hour:
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// certState says what is going on with a certificate.
func certState(c *node.CertStatus) string {
	switch {
	case c.Running:
		return "being ordered by " + string(c.Issuer)
	case c.Error != "":
		s := c.Issuer
		return fmt.Sprintf("%s failed: %s; next try %s", s, c.Error, c.Next.Local().Format(time.TimeOnly))
	case c.From == "public" && !c.Here:
		return "shared by " + string(c.By) + ", not with the node asked"
	case c.From == "public":
		return "shared by " + string(c.By)
	}
	return "-"
}

func newCertRenew(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "renew HOST", Short: "Order a new certificate for a host now", Args: exactly("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := p.RenewCert(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ordering; `perigee cert ls` says how far it is\n", args[0])
			return err
		},
	}
}

func newCertImport(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "import HOST CHAIN KEY", Short: "Share a certificate from elsewhere (two PEM files)", Args: exactly("HOST", "CHAIN", "KEY"),
		Long: "Import seals a certificate and its key to the nodes that answer for the host, like one that was ordered. HOST\n" +
			"may be \"*.\" and a domain. Where a public CA is configured it is replaced in the last third of its life.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := node.CertImport{Host: args[0]}
			var err error
			if in.Chain, err = os.ReadFile(args[1]); err != nil {
				return err
			}
			if in.Key, err = os.ReadFile(args[2]); err != nil {
				return err
			}
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := p.ImportCert(cmd.Context(), in); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: shared with the nodes that answer for it\n", args[0])
			return err
		},
	}
}
