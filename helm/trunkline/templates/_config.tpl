{{/*
A role's node.yaml, without what differs from pod to pod (that comes from the environment, see "trunkline.env").
`drain_s` leaves of the grace period what the rest of a stop takes: for calls on edges and media all but a minute; for
others half, because handing shards over may take as long again.
*/}}
{{- define "trunkline.drainSeconds" -}}
{{- $grace := int (index .root.Values .role).terminationGracePeriodSeconds -}}
{{- if has .role (list "edge" "media") -}}
{{- sub $grace 65 -}}
{{- else -}}
{{- div (sub $grace 35) 2 -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.preStopSeconds" -}}5{{- end -}}

{{- define "trunkline.nodeConfig" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $role := .role -}}
{{- $own := index $v $role -}}
{{- $node := dict
    "roles" (list $role)
    "data_dir" "/var/lib/trunkline"
    "drain_s" (include "trunkline.drainSeconds" . | int)
    "log" $v.logging.filter
    "log_format" $v.logging.format -}}
{{- if $v.tracing.endpoint -}}
  {{- $_ := set $node "otlp" $v.tracing.endpoint -}}
  {{- $_ := set $node "otlp_ratio" $v.tracing.ratio -}}
{{- end -}}
{{- if has $role (list "edge" "media") -}}
  {{- $advertise := include "trunkline.advertise" . | fromJson -}}
  {{- if $advertise -}}{{- $_ := set $node "advertise" $advertise -}}{{- end -}}
{{- end -}}
{{- $etcd := dict "endpoints" (include "trunkline.etcdEndpoints" $root | fromJsonArray) -}}
{{- if $v.etcd.auth.user -}}
  {{- $_ := set $etcd "user" $v.etcd.auth.user -}}
  {{- $_ := set $etcd "password" (dict "file" (printf "/etc/trunkline/etcd-auth/%s" $v.etcd.auth.passwordKey)) -}}
{{- end -}}
{{- if $v.etcd.tls.existingSecret -}}
  {{- $tls := dict "ca" "/etc/trunkline/etcd-tls/ca.crt" -}}
  {{- if $v.etcd.tls.clientCertificate -}}
    {{- $_ := set $tls "cert" "/etc/trunkline/etcd-tls/tls.crt" -}}
    {{- $_ := set $tls "key" "/etc/trunkline/etcd-tls/tls.key" -}}
  {{- end -}}
  {{- $_ := set $etcd "tls" $tls -}}
{{- end -}}
{{- $cluster := dict "name" (include "trunkline.clusterName" $root) "lease_ttl" $v.leaseTtl "etcd" $etcd -}}
{{- if eq $v.tls.mode "insecure" -}}
  {{- $_ := set $cluster "insecure" true -}}
{{- else -}}
  {{- $_ := set $cluster "tls" (dict "ca" "/etc/trunkline/node-tls/ca.crt" "cert" "/etc/trunkline/node-tls/tls.crt" "key" "/etc/trunkline/node-tls/tls.key") -}}
{{- end -}}
{{- $postgres := dict "url" (dict "file" (printf "/etc/trunkline/postgresql/%s" $v.postgresql.urlKey)) "connections" (int $v.postgresql.connections) -}}
{{- $config := dict "node" $node "cluster" $cluster "journal" (dict "postgres" $postgres) -}}
{{- if eq $role "edge" -}}
  {{- $_ := set $config "sip" (dict "max_transactions" (int $own.maxTransactions) "trunks" (include "trunkline.trunks" $root | fromJsonArray)) -}}
{{- else if eq $role "call" -}}
  {{- $_ := set $config "call" (dict "max_calls" (int $own.maxCalls)) -}}
{{- else if eq $role "console" -}}
  {{- $console := dict "listen" (printf "%s:8080" (include "trunkline.wildcard" $root)) "secure_cookies" $own.secureCookies "trusted_proxies" $own.trustedProxies -}}
  {{- $links := dict -}}
  {{- range $to, $template := $own.links -}}{{- if $template -}}{{- $_ := set $links $to $template -}}{{- end -}}{{- end -}}
  {{- if $links -}}{{- $_ := set $console "links" $links -}}{{- end -}}
  {{- $_ := set $config "console" $console -}}
{{- end -}}
{{- if has $role (list "media" "records") -}}
  {{- $media := dict "recording" (include "trunkline.recording" $root | fromJson) -}}
  {{- if eq $role "media" -}}
    {{- $_ := set $media "rtp" (printf "%d-%d" (int $own.ports.rtpFirst) (int $own.ports.rtpLast)) -}}
    {{- $_ := set $media "webrtc_port" (int $own.ports.webrtc) -}}
    {{- $_ := set $media "workers" (int $own.workers) -}}
    {{- $_ := set $media "max_sessions" (int $own.maxSessions) -}}
    {{- if $v.transcription.endpoint -}}
      {{- $_ := set $media "transcription" (dict "endpoint" $v.transcription.endpoint) -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $config "media" $media -}}
{{- end -}}
{{- if eq "true" (include "trunkline.captures" .) -}}
  {{- $hep := dict "target" $v.hep.target "transport" $v.hep.transport "capture_id" (int64 $v.hep.captureId) -}}
  {{- if $v.hep.existingSecret -}}{{- $_ := set $hep "auth_key_file" (printf "/etc/trunkline/hep/%s" $v.hep.authKeyKey) -}}{{- end -}}
  {{- $_ := set $config "hep" $hep -}}
{{- end -}}
{{- if $v.dev.enabled -}}
  {{- $_ := set $config "dev" (dict "agents" (int $v.dev.agents)) -}}
{{- end -}}
{{- mustMergeOverwrite $config (deepCopy $own.config) | toYaml -}}
{{- end -}}

{{/* TCP ports that a role's pods have to reach outside of the cluster's nodes: those of the addresses that its node.yaml
names, and those that the values add, because no value tells them (PostgreSQL's is in a Secret). */}}
{{- define "trunkline.egressPorts" -}}
{{- $config := include "trunkline.nodeConfig" . | fromYaml -}}
{{- $named := concat (dig "cluster" "etcd" "endpoints" list $config) (list (dig "node" "otlp" "" $config) (dig "media" "recording" "store" "endpoint" "" $config)) -}}
{{- $store := dig "media" "recording" "store" dict $config -}}
{{- if and (eq (dig "kind" "" $store) "s3") (not (dig "endpoint" "" $store)) -}}{{- $named = append $named "https://s3" -}}{{- end -}}
{{- if eq (include "trunkline.bucketCredentials" .) "webIdentity" -}}
  {{- $sts := "https://sts" -}}
  {{- range (index .root.Values .role).extraEnv -}}
    {{- if and (eq .name "AWS_ENDPOINT_URL_STS") (hasKey . "value") -}}{{- $sts = .value -}}{{- end -}}
  {{- end -}}
  {{- $named = append $named $sts -}}
{{- end -}}
{{- $ports := list -}}
{{- range .root.Values.networkPolicy.egress.ports -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- range compact $named -}}
  {{- $address := urlParse . -}}
  {{- $given := regexFind ":[0-9]+$" $address.host | trimPrefix ":" -}}
  {{- $ports = append $ports (ternary (int $given) (ternary 443 80 (eq $address.scheme "https")) (ne $given "")) -}}
{{- end -}}
{{- uniq $ports | toJson -}}
{{- end -}}

{{/* By which way a role gets its credentials for the bucket: keys, webIdentity, podIdentity or instance; empty: it has none. */}}
{{- define "trunkline.bucketCredentials" -}}
{{- $r := .root.Values.recordings -}}
{{- $account := .root.Values.serviceAccount -}}
{{- if and (has .role (list "media" "records")) (eq $r.kind "s3") $r.s3.bucket -}}
  {{- if $r.s3.existingSecret -}}keys
  {{- else if $r.s3.credentials -}}{{- $r.s3.credentials -}}
  {{- else if and $account.create (get ($account.annotations | default dict) "eks.amazonaws.com/role-arn") -}}webIdentity
  {{- else -}}instance
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a role has something to capture: SIP is the edge's, RTCP the media node's. */}}
{{- define "trunkline.captures" -}}
{{- $hep := .root.Values.hep -}}
{{- $wanted := or (and (eq .role "edge") $hep.sip) (and (eq .role "media") $hep.rtcp) -}}
{{- if and $hep.target $wanted -}}true{{- end -}}
{{- end -}}

{{- define "trunkline.etcdEndpoints" -}}
{{- if .Values.etcd.endpoints -}}
{{- .Values.etcd.endpoints | toJson -}}
{{- else -}}
{{- list (printf "http://%s-dev-etcd.%s.svc:2379" (include "trunkline.fullname" .) .Release.Namespace) | toJson -}}
{{- end -}}
{{- end -}}

{{/* The trunks, and one for the call of `helm test`. */}}
{{- define "trunkline.trunks" -}}
{{- $trunks := .Values.trunks -}}
{{- if and .Values.test.enabled .Values.test.podCidrs -}}
  {{- $trunks = append $trunks (dict "name" "helm-test" "tenant" .Values.test.tenant "sources" .Values.test.podCidrs) -}}
{{- end -}}
{{- $trunks | toJson -}}
{{- end -}}

{{/* How the address is found that peers are told: given → the node's external one → STUN → the host's. */}}
{{- define "trunkline.advertise" -}}
{{- $network := (index .root.Values .role).network -}}
{{- $mode := include "trunkline.networkMode" . -}}
{{- $advertise := dict -}}
{{- if $network.address -}}{{- $_ := set $advertise "address" $network.address -}}{{- end -}}
{{- if $network.addresses -}}{{- $_ := set $advertise "addresses" $network.addresses -}}{{- end -}}
{{- if has $mode (list "hostNetwork" "hostPort") -}}
  {{- if $network.nodeExternalIP -}}{{- $_ := set $advertise "kubernetes" true -}}{{- end -}}
  {{- if $network.stun -}}{{- $_ := set $advertise "stun" $network.stun -}}{{- end -}}
{{- end -}}
{{- if eq $mode "cluster" -}}{{- $advertise = dict -}}{{- end -}}
{{- $advertise | toJson -}}
{{- end -}}

{{- define "trunkline.recording" -}}
{{- $r := .Values.recordings -}}
{{- $recording := dict "segment_ms" (int $r.segmentMs) "uploads" (int $r.uploads) "spool" "/var/lib/trunkline/spool" -}}
{{- if and (eq $r.kind "s3") $r.s3.bucket -}}
  {{- $store := dict "kind" "s3" "bucket" $r.s3.bucket "prefix" $r.s3.prefix "region" $r.s3.region "allow_http" $r.s3.allowHttp -}}
  {{- if $r.s3.endpoint -}}{{- $_ := set $store "endpoint" $r.s3.endpoint -}}{{- end -}}
  {{- $_ := set $recording "store" $store -}}
{{- else -}}
  {{- $_ := set $recording "store" (dict "kind" "folder" "path" "/var/lib/trunkline-recordings") -}}
{{- end -}}
{{- $recording | toJson -}}
{{- end -}}
