package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee/runtime"
)

// newAdmit is the admission child: a node starts it to check and compile an untrusted module.
func newAdmit() *cobra.Command {
	return &cobra.Command{
		Use: "admit", Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if runtime.AdmitMain(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args) != 0 {
				return errReported
			}
			return nil
		},
	}
}

// admitCommand is this program as the admission child.
func admitCommand() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to run the admission child: %w", err)
	}
	return []string{exe, "admit"}, nil
}
