//go:build tools

// Package apiserver names the program that this module is for.
package apiserver

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
