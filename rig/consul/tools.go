// Keeps Consul's command among the requirements of go.mod, whatever `go mod tidy` is told.
//go:build tools

package tools

import _ "github.com/hashicorp/consul"
