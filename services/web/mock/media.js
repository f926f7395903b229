// Stands for the media node: answers the desk's offers with a real peer connection that sends a tone.
const socket = new WebSocket(`ws://${location.host}/mock/media-ws`);
const status = document.querySelector('#status');
let current = null;

async function answer(sdp) {
  current?.close();
  const peer = new RTCPeerConnection();
  current = peer;
  const audio = new AudioContext();
  const out = audio.createMediaStreamDestination();
  const tone = new OscillatorNode(audio, { frequency: 523 });
  const gain = new GainNode(audio, { gain: 0.3 });
  tone.connect(gain).connect(out);
  tone.start();
  await peer.setRemoteDescription({ type: 'offer', sdp });
  peer.addTrack(out.stream.getAudioTracks()[0], out.stream);
  await peer.setLocalDescription(await peer.createAnswer());
  await new Promise((resolve) => {
    if (peer.iceGatheringState === 'complete') resolve();
    peer.onicegatheringstatechange = () => peer.iceGatheringState === 'complete' && resolve();
    setTimeout(resolve, 1500);
  });
  peer.onconnectionstatechange = () => (status.textContent = peer.connectionState);
  return peer.localDescription.sdp;
}

socket.onopen = async () => {
  // With the microphone's permission the browser names its addresses, which the desk needs here.
  await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => undefined);
  status.textContent = 'ready';
  socket.send(JSON.stringify({ ready: true }));
};
socket.onmessage = async (event) => {
  const { id, sdp } = JSON.parse(event.data);
  socket.send(JSON.stringify({ id, sdp: await answer(sdp) }));
};
