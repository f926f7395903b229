//go:build tools

// Package unittest names the program that this module is for.
package unittest

import _ "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"
