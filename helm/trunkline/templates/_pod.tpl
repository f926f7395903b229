{{/* The pod of a role: one image, one process, one role. */}}

{{- define "trunkline.podTemplate" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $role := .role -}}
{{- $own := index $v $role -}}
{{- $host := eq (include "trunkline.hostNetwork" .) "true" -}}
metadata:
  labels:
    {{- include "trunkline.roleSelector" . | nindent 4 }}
    app.kubernetes.io/part-of: trunkline
    {{- with $own.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "trunkline.nodeConfig" . | sha256sum }}
    kubectl.kubernetes.io/default-container: {{ $role }}
    {{- if $own.protectFromAutoscalers }}
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
    {{- end }}
    {{- with $own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "trunkline.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $own.terminationGracePeriodSeconds }}
  {{- if $host }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with $own.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ $v.security.runAsUser }}
    runAsGroup: {{ $v.security.runAsGroup }}
    fsGroup: {{ $v.security.fsGroup }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      {{- with $own.seccompProfile }}
      type: Localhost
      localhostProfile: {{ . }}
      {{- else }}
      type: RuntimeDefault
      {{- end }}
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- include "trunkline.affinity" . | nindent 4 }}
  topologySpreadConstraints:
    - topologyKey: topology.kubernetes.io/zone
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "trunkline.roleSelector" . | nindent 10 }}
  containers:
    - name: {{ $role }}
      image: {{ include "trunkline.image" $root | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: ["run", "--config", "/etc/trunkline/node.yaml"]
      env:
        {{- include "trunkline.env" . | nindent 8 }}
      ports:
        {{- include "trunkline.ports" . | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      # Alive is asked of the process alone, never of etcd or the database; ready is asked of all.
      startupProbe:
        httpGet: { path: /healthz, port: metrics }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: { path: /healthz, port: metrics }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: { path: /readyz, port: metrics }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      lifecycle:
        # Until everybody has read that the pod is going, it still takes what comes; SIGTERM then drains it.
        preStop:
          sleep:
            seconds: {{ include "trunkline.preStopSeconds" . }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      volumeMounts:
        {{- include "trunkline.mounts" . | nindent 8 }}
  volumes:
    {{- include "trunkline.volumes" . | nindent 4 }}
{{- end -}}

{{- define "trunkline.affinity" -}}
{{- $own := index .root.Values .role -}}
{{- $selector := include "trunkline.roleSelector" . -}}
{{- $anti := dict -}}
{{- if eq $own.antiAffinity "hard" -}}
  {{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" ($selector | fromYaml)) -}}
  {{- $anti = dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else -}}
  {{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" ($selector | fromYaml)) -}}
  {{- $anti = dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
{{- end -}}
{{- mustMergeOverwrite $anti (deepCopy $own.affinity) | toYaml -}}
{{- end -}}

{{/* What differs from pod to pod. Names that the chart sets cannot be set again: twice the same name is refused by
server-side apply. */}}
{{- define "trunkline.env" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $role := .role -}}
{{- $own := index $v $role -}}
{{- $host := include "trunkline.podHost" $root -}}
{{- $env := list
    (dict "name" "POD_IP" "valueFrom" (dict "fieldRef" (dict "fieldPath" "status.podIP")))
    (dict "name" "TRUNKLINE_NODE__NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name")))
    (dict "name" "TRUNKLINE_CLUSTER__LISTEN" "value" (printf "%s:%s" $host (include "trunkline.clusterPort" .)))
    (dict "name" "TRUNKLINE_CLUSTER__ADVERTISE" "value" (printf "%s:%s" $host (include "trunkline.clusterPort" .)))
    (dict "name" "TRUNKLINE_METRICS__LISTEN" "value" (printf "%s:%s" $host (include "trunkline.metricsPort" .))) -}}
{{- if $v.zoneLabel -}}
  {{- $env = append $env (dict "name" "TRUNKLINE_NODE__ZONE" "valueFrom" (dict "fieldRef" (dict "fieldPath" (printf "metadata.labels['%s']" $v.zoneLabel)))) -}}
{{- end -}}
{{- if eq $role "edge" -}}
  {{- $env = append $env (dict "name" "TRUNKLINE_SIP__LISTEN" "value" (printf "%s:%d" $host (int $own.ports.sip))) -}}
{{- else if eq $role "media" -}}
  {{- $env = append $env (dict "name" "TRUNKLINE_MEDIA__BIND" "valueFrom" (dict "fieldRef" (dict "fieldPath" "status.podIP"))) -}}
{{- end -}}
{{- $mode := include "trunkline.networkMode" . -}}
{{- if and (has $role (list "edge" "media")) (ne $mode "cluster") -}}
  {{- if ne $mode "loadBalancer" -}}
    {{- $env = append $env (dict "name" "TRUNKLINE_NODE__ADVERTISE__HOST" "valueFrom" (dict "fieldRef" (dict "fieldPath" "spec.nodeName"))) -}}
    {{- if $own.network.hostIP -}}
      {{- $env = append $env (dict "name" "TRUNKLINE_NODE__ADVERTISE__HOST_IP" "valueFrom" (dict "fieldRef" (dict "fieldPath" "status.hostIP"))) -}}
    {{- end -}}
  {{- else -}}
    {{- $env = append $env (dict "name" "TRUNKLINE_NODE__ADVERTISE__HOST" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) -}}
  {{- end -}}
{{- end -}}
{{- if and (has $role (list "media" "records")) (eq $v.recordings.kind "s3") $v.recordings.s3.existingSecret -}}
  {{- $secret := $v.recordings.s3.existingSecret -}}
  {{- $env = append $env (dict "name" "TRUNKLINE_MEDIA__RECORDING__STORE__ACCESS_KEY_ID" "valueFrom" (dict "secretKeyRef" (dict "name" $secret "key" $v.recordings.s3.accessKeyIdKey))) -}}
  {{- $env = append $env (dict "name" "TRUNKLINE_MEDIA__RECORDING__STORE__SECRET_ACCESS_KEY" "valueFrom" (dict "secretKeyRef" (dict "name" $secret "key" $v.recordings.s3.secretAccessKeyKey))) -}}
{{- end -}}
{{- $taken := dict -}}
{{- range $env -}}{{- $_ := set $taken .name true -}}{{- end -}}
{{- range $own.extraEnv -}}
  {{- if hasKey $taken .name -}}
    {{- fail (printf "%s.extraEnv: %s is set already; remove it (keys of the configuration belong to %s.config)" $role .name $role) -}}
  {{- end -}}
  {{- $_ := set $taken .name true -}}
  {{- $env = append $env . -}}
{{- end -}}
{{- $env | toYaml -}}
{{- end -}}

{{- define "trunkline.ports" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .role -}}
{{- $mapped := eq (dig "network" "mode" "" $own) "hostPort" -}}
- name: cluster
  containerPort: {{ include "trunkline.clusterPort" . }}
  protocol: TCP
- name: metrics
  containerPort: {{ include "trunkline.metricsPort" . }}
  protocol: TCP
{{- if eq .role "edge" }}
- name: sip-udp
  containerPort: {{ $own.ports.sip }}
  protocol: UDP
- name: sip-tcp
  containerPort: {{ $own.ports.sip }}
  protocol: TCP
{{- else if eq .role "console" }}
- name: http
  containerPort: 8080
  protocol: TCP
{{- else if eq .role "media" }}
{{- range $worker := until (int $own.workers) }}
- name: webrtc-{{ $worker }}
  containerPort: {{ add (int $own.ports.webrtc) $worker }}
  {{- if $mapped }}
  hostPort: {{ add (int $own.ports.webrtc) $worker }}
  {{- end }}
  protocol: UDP
{{- end }}
{{- if ne $own.network.mode "hostNetwork" }}
{{- range $port := untilStep (int $own.ports.rtpFirst) (int (add1 $own.ports.rtpLast)) 1 }}
- name: rtp-{{ $port }}
  containerPort: {{ $port }}
  {{- if $mapped }}
  hostPort: {{ $port }}
  {{- end }}
  protocol: UDP
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "trunkline.mounts" -}}
{{- $v := .root.Values -}}
- name: config
  mountPath: /etc/trunkline/node.yaml
  subPath: node.yaml
  readOnly: true
- name: data
  mountPath: /var/lib/trunkline
- name: tmp
  mountPath: /tmp
- name: postgresql
  mountPath: /etc/trunkline/postgresql
  readOnly: true
{{- if ne $v.tls.mode "insecure" }}
- name: node-tls
  mountPath: /etc/trunkline/node-tls
  readOnly: true
{{- end }}
{{- if $v.postgresql.tls.existingSecret }}
- name: postgresql-tls
  mountPath: /etc/trunkline/postgresql-tls
  readOnly: true
{{- end }}
{{- if $v.etcd.auth.user }}
- name: etcd-auth
  mountPath: /etc/trunkline/etcd-auth
  readOnly: true
{{- end }}
{{- if $v.etcd.tls.existingSecret }}
- name: etcd-tls
  mountPath: /etc/trunkline/etcd-tls
  readOnly: true
{{- end }}
{{- if and $v.hep.existingSecret (include "trunkline.captures" .) }}
- name: hep
  mountPath: /etc/trunkline/hep
  readOnly: true
{{- end }}
{{- if include "trunkline.recordingsFolder" . }}
- name: recordings
  mountPath: /var/lib/trunkline-recordings
{{- end }}
{{- if include "trunkline.asksKubernetes" . }}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- end -}}

{{- define "trunkline.volumes" -}}
{{- $v := .root.Values -}}
{{- $full := include "trunkline.fullname" .root -}}
- name: config
  configMap:
    name: {{ $full }}-{{ .role }}
{{- if not (dig "persistence" "enabled" false (index $v .role)) }}
- name: data
  emptyDir: {}
{{- end }}
- name: tmp
  emptyDir: {}
- name: postgresql
  secret:
    secretName: {{ include "trunkline.postgresqlSecret" .root }}
    defaultMode: 288 # 0440
{{- if ne $v.tls.mode "insecure" }}
- name: node-tls
  secret:
    secretName: {{ include "trunkline.tlsSecret" .root }}
    defaultMode: 288 # 0440
{{- end }}
{{- with $v.postgresql.tls.existingSecret }}
- name: postgresql-tls
  secret:
    secretName: {{ . }}
    defaultMode: 288 # 0440
{{- end }}
{{- if $v.etcd.auth.user }}
- name: etcd-auth
  secret:
    secretName: {{ $v.etcd.auth.existingSecret }}
    defaultMode: 288 # 0440
{{- end }}
{{- with $v.etcd.tls.existingSecret }}
- name: etcd-tls
  secret:
    secretName: {{ . }}
    defaultMode: 288 # 0440
{{- end }}
{{- if and $v.hep.existingSecret (include "trunkline.captures" .) }}
- name: hep
  secret:
    secretName: {{ $v.hep.existingSecret }}
    defaultMode: 288 # 0440
{{- end }}
{{- if include "trunkline.recordingsFolder" . }}
- name: recordings
  {{- if $v.recordings.folder.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ $v.recordings.folder.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- if include "trunkline.asksKubernetes" . }}
# A token for one question (the node's external address), not the account's own.
- name: kubernetes
  projected:
    defaultMode: 288 # 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items: [{ key: ca.crt, path: ca.crt }]
{{- end }}
{{- end -}}

{{/* "true" when a role keeps recordings in a folder. */}}
{{- define "trunkline.recordingsFolder" -}}
{{- $r := .root.Values.recordings -}}
{{- if and (has .role (list "media" "records")) (not (and (eq $r.kind "s3") $r.s3.bucket)) -}}true{{- end -}}
{{- end -}}

{{/* "true" when a role asks the Kubernetes API for its node's external address. */}}
{{- define "trunkline.asksKubernetes" -}}
{{- $mode := include "trunkline.networkMode" . -}}
{{- if and (has $mode (list "hostNetwork" "hostPort")) (index .root.Values .role).network.nodeExternalIP -}}true{{- end -}}
{{- end -}}
