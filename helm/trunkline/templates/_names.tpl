{{/* Names, labels and images. Each definition takes the root context, or a dict with `root` and `role`. */}}

{{- define "trunkline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.clusterName" -}}
{{- default (printf "%s-%s" .Release.Namespace (include "trunkline.fullname" .)) .Values.clusterName | trunc 64 -}}
{{- end -}}

{{- define "trunkline.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trunkline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "trunkline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: trunkline
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "trunkline.roleSelector" -}}
{{ include "trunkline.selectorLabels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "trunkline.roleLabels" -}}
{{ include "trunkline.labels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "trunkline.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "trunkline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the certificates between nodes. */}}
{{- define "trunkline.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}
{{- .Values.tls.existingSecret -}}
{{- else -}}
{{- printf "%s-node-tls" (include "trunkline.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the database's address. */}}
{{- define "trunkline.postgresqlSecret" -}}
{{- if .Values.postgresql.existingSecret -}}
{{- .Values.postgresql.existingSecret -}}
{{- else -}}
{{- printf "%s-dev-postgresql" (include "trunkline.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* How the outside reaches a role. A trial's edges have no load balancer to wait for. */}}
{{- define "trunkline.networkMode" -}}
{{- $network := dig "network" dict (index .root.Values .role) -}}
{{- $mode := default "" (get $network "mode") -}}
{{- if and (eq .role "edge") (eq $mode "loadBalancer") (not $network.address) .root.Values.dev.enabled -}}
cluster
{{- else -}}
{{- $mode -}}
{{- end -}}
{{- end -}}

{{/* "true" when a role's pods are in the host's network. */}}
{{- define "trunkline.hostNetwork" -}}
{{- if eq (include "trunkline.networkMode" .) "hostNetwork" -}}true{{- end -}}
{{- end -}}

{{/* The ports of a role: each has its own numbers only where it may share a machine's network with another. */}}
{{- define "trunkline.clusterPort" -}}
{{- dig "ports" "cluster" 7400 (index .root.Values .role) -}}
{{- end -}}

{{- define "trunkline.metricsPort" -}}
{{- dig "ports" "metrics" 9090 (index .root.Values .role) -}}
{{- end -}}

{{/* The pod's address as a host, from the environment. */}}
{{- define "trunkline.podHost" -}}
{{- if eq .Values.ipFamily "IPv6" -}}[$(POD_IP)]{{- else -}}$(POD_IP){{- end -}}
{{- end -}}

{{- define "trunkline.wildcard" -}}
{{- if eq .Values.ipFamily "IPv6" -}}[::]{{- else -}}0.0.0.0{{- end -}}
{{- end -}}

{{/* The host name by which agents reach the console, when the values tell one; a wildcard is none. */}}
{{- define "trunkline.consoleHost" -}}
{{- $hosts := list -}}
{{- with .Values.console -}}
{{- if .httpRoute.enabled }}{{ $hosts = concat $hosts .httpRoute.hostnames }}{{ end -}}
{{- if .ingress.enabled }}{{ $hosts = concat $hosts .ingress.hosts }}{{ end -}}
{{- end -}}
{{- range $hosts -}}
{{- if not (contains "*" .) }}{{ . }}{{ break }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Where the pages of the alerts are served: <base>/<Alert>.md. Empty when nothing is known that browsers reach. */}}
{{- define "trunkline.runbookBase" -}}
{{- $host := include "trunkline.consoleHost" . -}}
{{- if .Values.monitoring.runbookBase -}}
{{- trimSuffix "/" .Values.monitoring.runbookBase -}}
{{- else if $host -}}
{{- printf "https://%s/runbooks" $host -}}
{{- end -}}
{{- end -}}

{{/* The label `job` of everything that is scraped of this release. Rules and dashboards tell installations apart by it, and
`trunkline` is in it whatever the release is called. */}}
{{- define "trunkline.job" -}}
{{- printf "trunkline/%s/%s" .Release.Namespace (include "trunkline.fullname" .) -}}
{{- end -}}
