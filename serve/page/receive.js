// Pictures that the user gives: chosen from a file, dropped on the panel, or pasted anywhere.

/** Calls `take(file)` for each; while one is dragged over `panel`, it has the class "drag". */
export function listenForPictures(panel, input, take) {
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file) take(file);
  });
  let depth = 0; // dragenter and dragleave come for every element within
  const over = (change) => {
    depth = Math.max(0, depth + change);
    panel.classList.toggle("drag", depth > 0);
  };
  const files = (event) => event.dataTransfer?.types.includes("Files");
  panel.addEventListener("dragenter", (event) => files(event) && over(1));
  panel.addEventListener("dragleave", (event) => files(event) && over(-1));
  // A file dropped beside the panel would otherwise replace the page.
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    over(-depth);
    if (panel.contains(event.target) && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
