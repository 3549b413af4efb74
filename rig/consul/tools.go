//go:build tools

// Keeps Consul's command among the requirements of go.mod, whatever `go mod tidy` is told.
package tools

import _ "github.com/hashicorp/consul"
