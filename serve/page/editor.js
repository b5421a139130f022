// Adds pictures to the collection and deletes them. A deleted picture that was added from this page
// can be put back, since its file is still here; of any other, only its thumbnail is.

import { imagePath } from "./api.js";
import { byId, chip } from "./dom.js";
import { nameOf } from "./gallery.js";

export class Editor {
  /** @param changed called when the collection is another than before */
  constructor(api, message, changed) {
    this.api = api;
    this.message = message;
    this.changed = changed;
    this.added = new Map(); // id -> {file, name}
  }

  /** Resolves with whether the picture is stored. `id` puts a deleted one back in its place. */
  async add(file, name, id = null) {
    try {
      const stored = await this.api.upload(
        "v1/images",
        { file, label: name, name, id },
        { onWait: this.message.wait },
      );
      this.added.set(stored.id, { file, name });
      const undo = chip("Undo", () => this.#delete(stored.id, name));
      this.message.say(`\u201c${name}\u201d is in the collection.`, [undo]);
      this.changed();
      return true;
    } catch (error) {
      this.message.fail(error);
      return false;
    }
  }

  /** Deletes a picture that was found, if the user confirms it. */
  async remove(match) {
    const name = nameOf(match);
    if (await this.#confirm(match.id, name)) await this.#delete(match.id, name);
  }

  #confirm(id, name) {
    const dialog = byId("confirm");
    byId("confirm-title").textContent = `Delete \u201c${name}\u201d from the collection?`;
    byId("confirm-note").textContent = this.added.has(id)
      ? "You can undo this while this page is open."
      : "It goes for everyone who searches here, and this page cannot bring it back.";
    dialog.returnValue = "keep";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.onclose = () => {
        // The event of an earlier closing may come when the dialog is open again.
        if (!dialog.open) resolve(dialog.returnValue === "delete");
      };
    });
  }

  async #delete(id, name) {
    try {
      await this.api.delete(imagePath(id), { onWait: this.message.wait });
    } catch (error) {
      this.message.fail(error);
      return;
    }
    document.querySelector(`#gallery [data-id="${CSS.escape(id)}"]`)?.remove();
    byId("found").focus();
    const kept = this.added.get(id);
    const undo = kept ? [chip("Undo", () => this.add(kept.file, kept.name, id))] : [];
    this.message.say(`\u201c${name}\u201d is deleted.`, undo);
    this.changed();
  }
}
