// Plays the strip of filters: one frame for each epoch, below each other in one picture.
for (const player of document.querySelectorAll(".player")) {
  const canvas = player.querySelector("canvas"), slider = player.querySelector("input"), label = player.querySelector("output");
  const button = player.querySelector("button"), epochs = JSON.parse(player.dataset.epochs), strip = new Image();
  const show = () => {
    const k = Number(slider.value);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    canvas.getContext("2d").drawImage(strip, 0, k * canvas.height, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    label.textContent = epochs[k] ? `epoch ${epochs[k]}` : "start";
  };
  let timer = 0;
  const pause = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  slider.addEventListener("input", () => { pause(); show(); });
  button.addEventListener("click", () => {
    if (timer) { pause(); return; }
    button.textContent = "Pause";
    timer = setInterval(() => { slider.value = (Number(slider.value) + 1) % epochs.length; show(); }, Math.max(80, Math.min(600, 6000 / epochs.length)));
  });
  strip.addEventListener("load", show);
  strip.src = player.dataset.strip;
}
