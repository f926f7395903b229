{{/* What has to be there before anything is made. All that is missing is told at once, each with what to do. */}}

{{- define "trunkline.checks" -}}
{{- $v := .Values -}}
{{- $missing := list -}}
{{- if not $v.dev.enabled -}}
  {{- if not $v.postgresql.existingSecret -}}
    {{- $missing = append $missing (printf "postgresql.existingSecret is not set: create a Secret with the database's address and name it, for example: kubectl create secret generic trunkline-postgresql --namespace %s --from-literal=%s='postgres://trunkline:PASSWORD@HOST:5432/trunkline'" .Release.Namespace $v.postgresql.urlKey) -}}
  {{- end -}}
  {{- if not $v.etcd.endpoints -}}
    {{- $missing = append $missing "etcd.endpoints is empty: name the members of an etcd, for example [\"http://etcd-0.etcd:2379\"]" -}}
  {{- end -}}
  {{- if and (eq $v.recordings.kind "s3") (not $v.recordings.s3.bucket) -}}
    {{- $missing = append $missing "recordings.s3.bucket is not set: name the bucket for recordings, or set recordings.kind=folder with recordings.folder.existingClaim" -}}
  {{- end -}}
  {{- if and (eq $v.recordings.kind "folder") (not $v.recordings.folder.existingClaim) -}}
    {{- $missing = append $missing "recordings.folder.existingClaim is not set: create a PersistentVolumeClaim with access mode ReadWriteMany and name it, or set recordings.kind=s3" -}}
  {{- end -}}
{{- end -}}
{{- if ne $v.recordings.kind "s3" -}}
{{- else if and $v.recordings.s3.existingSecret $v.recordings.s3.credentials -}}
  {{- $missing = append $missing (printf "recordings.s3.credentials is %s, but recordings.s3.existingSecret names keys, which would win: remove one of the two" $v.recordings.s3.credentials) -}}
{{- else if and (eq $v.recordings.s3.credentials "webIdentity") $v.serviceAccount.create (not (get ($v.serviceAccount.annotations | default dict) "eks.amazonaws.com/role-arn")) -}}
  {{- $missing = append $missing "serviceAccount.annotations has no eks.amazonaws.com/role-arn, which recordings.s3.credentials=webIdentity needs: give the role that may put, get, list and delete in the bucket, for example arn:aws:iam::123456789012:role/recordings; or annotate an account of your own and name it (serviceAccount.create=false)" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "existingSecret") (not $v.tls.existingSecret) -}}
  {{- $missing = append $missing (printf "tls.existingSecret is not set: create a Secret with ca.crt, tls.crt and tls.key of an authority that signs only this cluster's nodes: kubectl create secret generic trunkline-node-tls --namespace %s --from-file=ca.crt --from-file=tls.crt --from-file=tls.key; or set tls.mode=certManager" .Release.Namespace) -}}
{{- end -}}
{{- if and $v.etcd.auth.user (not $v.etcd.auth.existingSecret) -}}
  {{- $missing = append $missing (printf "etcd.auth.existingSecret is not set: create a Secret with the password of the etcd user and name it: kubectl create secret generic trunkline-etcd --namespace %s --from-literal=%s=PASSWORD" .Release.Namespace $v.etcd.auth.passwordKey) -}}
{{- end -}}
{{- if and (eq $v.edge.network.mode "loadBalancer") (not $v.edge.network.address) (not $v.dev.enabled) -}}
  {{- $missing = append $missing "edge.network.address is not set: reserve an address for the load balancer in front of SIP and give it (telephones are told it), or set edge.network.mode to hostNetwork or cluster" -}}
{{- end -}}
{{- if and (eq $v.media.network.mode "loadBalancer") (not $v.media.network.addresses) -}}
  {{- $missing = append $missing (printf "media.network.addresses is empty: with media.network.mode=loadBalancer every pod has a Service of its own; give the address of each, for example {\"%s-media-0\": \"203.0.113.20\"}" (include "trunkline.fullname" .)) -}}
{{- end -}}
{{- if ne $v.media.network.mode "hostNetwork" -}}
  {{- $ports := add1 (sub (int $v.media.ports.rtpLast) (int $v.media.ports.rtpFirst)) -}}
  {{- if gt (int $ports) 200 -}}
    {{- $missing = append $missing (printf "media.ports: %d ports are too many for media.network.mode=%s, where each is a rule of its own: set media.ports.rtpFirst and rtpLast to a range of at most 200" (int $ports) $v.media.network.mode) -}}
  {{- end -}}
{{- end -}}
{{- if lt (int $v.media.ports.rtpLast) (int $v.media.ports.rtpFirst) -}}
  {{- $missing = append $missing "media.ports.rtpLast is below media.ports.rtpFirst: give the range of RTP ports from the first to the last" -}}
{{- end -}}
{{- if and $v.console.httpRoute.enabled (not $v.console.httpRoute.parentRefs) -}}
  {{- $missing = append $missing "console.httpRoute.parentRefs is empty: name the Gateway that the route belongs to, for example [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- if and $v.console.ingress.enabled (not $v.console.ingress.hosts) -}}
  {{- $missing = append $missing "console.ingress.hosts is empty: name the host of the agents' pages, for example [agents.example.com]" -}}
{{- end -}}
{{- range $role := list "edge" "call" "media" -}}
  {{- $scaling := (index $v $role).autoscaling -}}
  {{- if and (eq $scaling.kind "keda") (not $scaling.prometheus) -}}
    {{- $missing = append $missing (printf "%s.autoscaling.prometheus is not set: KEDA asks a Prometheus for the load; give its address, for example http://prometheus.monitoring:9090" $role) -}}
  {{- end -}}
  {{- if lt (int $scaling.maxReplicas) (int $scaling.minReplicas) -}}
    {{- $missing = append $missing (printf "%s.autoscaling.maxReplicas is below minReplicas: raise it to at least %d" $role (int $scaling.minReplicas)) -}}
  {{- end -}}
{{- end -}}
{{- $missing = concat $missing (include "trunkline.absentSecrets" . | fromJsonArray) -}}
{{- if $missing -}}
  {{- fail (printf "\n\nThis cannot be installed yet:\n  - %s\n" (join "\n  - " $missing)) -}}
{{- end -}}
{{- end -}}

{{/* The Secrets that the values name: name, keys, and what they are for. */}}
{{- define "trunkline.secrets" -}}
{{- $v := .Values -}}
{{- $wanted := list -}}
{{- if $v.postgresql.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "postgresql.existingSecret" "name" $v.postgresql.existingSecret "keys" (list $v.postgresql.urlKey)) -}}
{{- end -}}
{{- if $v.postgresql.tls.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "postgresql.tls.existingSecret" "name" $v.postgresql.tls.existingSecret "keys" (list "ca.crt")) -}}
{{- end -}}
{{- if $v.etcd.auth.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "etcd.auth.existingSecret" "name" $v.etcd.auth.existingSecret "keys" (list $v.etcd.auth.passwordKey)) -}}
{{- end -}}
{{- if $v.etcd.tls.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "etcd.tls.existingSecret" "name" $v.etcd.tls.existingSecret "keys" (ternary (list "ca.crt" "tls.crt" "tls.key") (list "ca.crt") $v.etcd.tls.clientCertificate)) -}}
{{- end -}}
{{- if and $v.hep.target $v.hep.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "hep.existingSecret" "name" $v.hep.existingSecret "keys" (list $v.hep.authKeyKey)) -}}
{{- end -}}
{{- if and (eq $v.recordings.kind "s3") $v.recordings.s3.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "recordings.s3.existingSecret" "name" $v.recordings.s3.existingSecret "keys" (list $v.recordings.s3.accessKeyIdKey $v.recordings.s3.secretAccessKeyKey)) -}}
{{- end -}}
{{- if and (eq $v.tls.mode "existingSecret") $v.tls.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "tls.existingSecret" "name" $v.tls.existingSecret "keys" (list "ca.crt" "tls.crt" "tls.key")) -}}
{{- end -}}
{{- if and $v.console.ingress.enabled $v.console.ingress.tls.existingSecret -}}
  {{- $wanted = append $wanted (dict "value" "console.ingress.tls.existingSecret" "name" $v.console.ingress.tls.existingSecret "keys" (list "tls.crt" "tls.key")) -}}
{{- end -}}
{{- $wanted | toJson -}}
{{- end -}}

{{/*
Secrets that are named but not there, or without their keys. The list of Secrets is asked for, not each: an answer at all
(be it empty) tells that there is a cluster to ask, so that `helm template` does not look. Helm itself lists Secrets: no
right is needed for this that an installer does not have.
*/}}
{{- define "trunkline.absentSecrets" -}}
{{- $absent := list -}}
{{- $namespace := .Release.Namespace -}}
{{- $wanted := include "trunkline.secrets" . | fromJsonArray -}}
{{- if $wanted -}}
{{- $answer := lookup "v1" "Secret" $namespace "" -}}
{{- if $answer -}}
  {{- $there := dict -}}
  {{- range $answer.items -}}
    {{- $_ := set $there .metadata.name (keys (default dict .data)) -}}
  {{- end -}}
  {{- range $wanted -}}
    {{- $literals := list -}}
    {{- range .keys -}}{{- $literals = append $literals (printf "--from-literal=%s=VALUE" .) -}}{{- end -}}
    {{- if not (hasKey $there .name) -}}
      {{- $absent = append $absent (printf "%s: there is no Secret %q in namespace %s; create it: kubectl create secret generic %s --namespace %s %s" .value .name $namespace .name $namespace (join " " $literals)) -}}
    {{- else -}}
      {{- $has := get $there .name -}}
      {{- $secret := . -}}
      {{- range .keys -}}
        {{- if not (has . $has) -}}
          {{- $absent = append $absent (printf "%s: the Secret %q has no key %q; add it" $secret.value $secret.name .) -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- $absent | toJson -}}
{{- end -}}
